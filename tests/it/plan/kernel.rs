//! Driver and kernel: what the planner knows of them, and what it leaves to the script.

use crate::support::{catalog, in_repository, plan_of, request};
use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::catalog::stack::Pins;
use efa_gen::error::{Class, Error};
use efa_gen::plan::{self, Action, Assertion, Plan, Request};

/// A stack whose driver has this bound, beside those that efa-gen knows.
fn with_bound(bound: &str, efa: &str, plugin: &str) -> Catalog {
    let digest = "ab".repeat(32);
    let (cuda, nccl) = if efa == "1.50.0" { ("12.9.1", "2.27.7-1") } else { ("12.2.2", "2.18.6-1") };
    let text = format!(
        r#"
[[driver]]
version = "580.126.18"
kernel_max = "{bound}"
download = {{ url = "https://artifacts.example/driver.run", sha256 = "{digest}", published = "us" }}
[[stack]]
id = "ours"
title = "Ours"
efa = "{efa}"
cuda = "{cuda}"
driver = "580.126.18"
nccl = "{nccl}"
plugin = "{plugin}"
nccl_tests = "2.16.8"
"#
    );
    catalog().with_stacks("ours.toml", &text).expect("it names what is known")
}

fn refusal(catalog: &Catalog, request: &Request) -> Error {
    plan::plan(catalog, request).expect_err("the driver does not go with this kernel")
}

/// Driver and bound of the check in stage "update", and the step's hint.
fn check(plan: &Plan) -> Option<(&str, &str, &str)> {
    let update = plan.stages.iter().find(|stage| stage.id == "update").expect("every plan updates");
    let step = update.steps.iter().find(|step| step.id == "kernel")?;
    let [Action::Assert(Assertion::DriverKernel { driver, max })] = &step.actions[..] else { panic!("{step:?}") };
    assert_eq!(update.steps.last(), Some(step), "it comes after the upgrade, and the reboot after it");
    Some((driver, max, step.hint.as_deref().expect("it has a hint")))
}

#[test]
fn a_known_bound_is_compared_before_the_first_reboot() {
    let ubuntu = plan_of("ubuntu24", "newest");
    assert_eq!(check(&ubuntu).map(|(driver, max, _)| (driver, max)), Some(("595.91.07", "7.0")));
    let amazon = plan_of("al2", "guide");
    assert_eq!(check(&amazon).map(|(driver, max, _)| (driver, max)), Some(("418.87.00", "5.5")));
    let hint =
        "choose --stack cuda-12.2-efa-1.49: its driver 535.129.03 is newer, but for which kernels is not known here";
    assert_eq!(check(&amazon).map(|(_, _, hint)| hint), Some(hint), "what is not known is not said to be not there");
    // A bound that nobody states is not made up; without a driver there is none.
    assert_eq!(check(&plan_of("al2", "newest")), None);
    let cpu = Request { no_gpu: true, ..request("al2", "guide") };
    assert_eq!(check(&plan::plan(&catalog(), &cpu).expect("it can be planned")), None);
}

#[test]
fn a_kernel_that_stays_newer_is_refused_with_the_stack_that_goes_on() {
    let error = refusal(&with_bound("5.19", "1.50.0", "1.21.1"), &request("debian12", "ours"));
    assert_eq!(error.class(), Class::Plan);
    assert_eq!(
        error.to_string(),
        "NVIDIA driver 580.126.18 is for kernels up to 5.19, and Debian 12 has kernel 6.1 [rule driver-kernel]"
    );
    let hint = "this works: --distro debian12 --stack cuda-13.0; or take it upon yourself: --allow driver-kernel";
    assert_eq!(error.hint_text(), Some(hint));
    // The series is compared as numbers: 6.1 is older than 6.2 and than 6.17.
    for bound in ["6.1", "6.2", "6.17", "7.0"] {
        let ours = with_bound(bound, "1.50.0", "1.21.1");
        let plan = plan::plan(&ours, &request("debian12", "ours")).expect("its kernel is not newer");
        assert!(!plan.notes.iter().any(|note| note.contains("for kernels up to")), "{bound}: {:?}", plan.notes);
    }
}

#[test]
fn a_stack_of_another_gpu_or_distribution_is_no_way_out() {
    let ours = with_bound("4.4", "1.49.0", "1.20.0");
    let ampere = Request { instance_type: Some("g5.48xlarge".into()), ..request("al2", "ours") };
    let hint = "this works: --distro al2 --stack cuda-12.2-efa-1.49 --instance-type g5.48xlarge; or take it upon \
                yourself: --allow driver-kernel";
    assert_eq!(
        refusal(&ours, &ampere).hint_text(),
        Some(hint),
        "418.87.00 comes with a CUDA that can't build for sm_86"
    );
    let volta = Request { instance_type: Some("p3dn.24xlarge".into()), ..request("debian12", "ours") };
    let ours = with_bound("4.4", "1.50.0", "1.21.1");
    let hint = "this works: --distro debian12 --stack cuda-12.9 --instance-type p3dn.24xlarge; or take it upon \
                yourself: --allow driver-kernel";
    assert_eq!(refusal(&ours, &volta).hint_text(), Some(hint), "CUDA 13 can't build for Volta");
}

#[test]
fn a_kernel_that_moves_on_is_noted_and_left_to_the_script() {
    let ours = with_bound("6.17", "1.50.0", "1.21.1");
    let plan = plan::plan(&ours, &request("ubuntu24", "ours")).expect("an older kernel may be there");
    let note = plan.notes.iter().find(|note| note.starts_with("Kernel 7.0 was seen in 2026-10")).expect("it is noted");
    for words in ["driver 580.126.18 is for kernels up to 6.17", "before its first reboot", "choose --stack cuda-13.0"]
    {
        assert!(note.contains(words), "{words}: {note}");
    }
    let (driver, max, hint) = check(&plan).expect("the script looks");
    assert_eq!((driver, max), ("580.126.18", "6.17"));
    assert_eq!(hint, "choose --stack cuda-13.0: its driver 580.178.04 is for kernels up to 7.1");
}

#[test]
fn series_are_two_numbers() {
    let pins = std::fs::read_to_string(in_repository("src/catalog/data/pins.toml")).expect("it is there");
    let file = std::fs::read_to_string(in_repository("distros/debian12.toml")).expect("it is there");
    for bad in ["6", "6.17.0", "v6.17", "6.x", "6.", "", "6.1; reboot"] {
        let text = pins.replace("kernel_max = \"5.5\"", &format!("kernel_max = \"{bad}\""));
        let error = Pins::parse("mine.toml", &text, &Pins::default()).expect_err(bad).to_string();
        assert!(error.contains("of driver 418.87.00 is not a kernel series such as 6.17"), "{error}");
        let text = file.replace("version = \"6.1\"", &format!("version = \"{bad}\""));
        let error = Distribution::parse("debian12", &text).expect_err(bad).to_string();
        assert!(error.contains("is not a kernel series such as 6.1"), "{error}");
    }
}
