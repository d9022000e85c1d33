//! The newest installed kernel against the driver's bound, as the script compares them before its first reboot.

use std::fs;

use crate::support::sandbox::Sandbox;
use efa_gen::plan::{Action, Assertion};

/// The check's exit code and words on a machine with these kernels in /boot.
fn check(kernels: &[&str], max: &str) -> (Option<i32>, String) {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("boot")).expect("a folder can be made");
    for kernel in kernels {
        sandbox.write(&format!("boot/vmlinuz-{kernel}"), "");
    }
    let check = Assertion::DriverKernel { driver: "580.126.18".into(), max: max.into() };
    sandbox.run_actions(vec![Action::Assert(check)])
}

#[test]
fn a_driver_goes_with_kernels_up_to_its_bound() {
    for (kernels, max) in [
        (&["6.17.0-1001-aws"][..], "6.17"),
        (&["6.17.9-1.el10.x86_64"], "6.17"),
        (&["3.10.0-957.el7.x86_64", "3.10.0-1160.119.1.el7.x86_64"], "3.10"),
        (&["4.15.0-1155-aws", "5.4.0-1103-aws"], "5.5"),
        (&["6.1.0-9-cloud-amd64"], "6.17"),
        (&["6.17.0-1001-aws"], "7.0"),
        (&["4.14.355-280.652.amzn2.x86_64", "0-rescue-ec2abcdef"], "4.14"),
    ] {
        let (code, said) = check(kernels, max);
        assert_eq!(code, Some(0), "{kernels:?}, up to {max}: {said}");
    }
}

#[test]
fn a_newer_kernel_ends_the_script_and_both_versions_are_named() {
    for (kernels, newest, max) in [
        (&["6.8.0-1021-aws", "7.0.0-1006-aws"][..], "7.0.0-1006-aws", "6.17"),
        (&["7.0.0-1006-aws", "6.8.0-1021-aws"], "7.0.0-1006-aws", "6.17"),
        (&["6.10.0-1-cloud-amd64"], "6.10.0-1-cloud-amd64", "6.9"),
        (&["4.14.355-280.652.amzn2.x86_64", "5.10.9-5.amzn2.x86_64"], "5.10.9-5.amzn2.x86_64", "5.5"),
        (&["5.6.0-1-aws"], "5.6.0-1-aws", "5.5"),
        (&["10.0.1-1"], "10.0.1-1", "7.1"),
    ] {
        let (code, said) = check(kernels, max);
        let reason = format!("kernel {newest} is installed, and NVIDIA driver 580.126.18 is for kernels up to {max}\n");
        assert_eq!(code, Some(7), "{kernels:?}, up to {max}: {said}");
        assert!(said.contains(&reason), "{reason}: {said}");
    }
}

#[test]
fn what_tells_no_version_is_not_taken_for_an_old_kernel() {
    for (kernels, named) in [(&[][..], "none"), (&["custom"], "custom"), (&["0-rescue-ec2abcdef"], "none")] {
        let (code, said) = check(kernels, "6.17");
        assert_eq!(code, Some(7), "{kernels:?}: {said}");
        assert!(said.contains(&format!("the newest kernel in /boot is {named}, which tells no version")), "{said}");
    }
}
