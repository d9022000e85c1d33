//! Owns what is checked and cleared before a machine becomes an image. Knows nothing of stacks.

use super::action::{Action, Check};
use super::parts::package_run;
use super::{LOG_DIR, STATE_DIR, Stage, Step, Then, When};
use crate::catalog::distribution::Distribution;

/// Credentials and traces that must not be in an image, as globs.
const SECRETS: [&str; 10] = [
    "/root/.ssh/authorized_keys",
    "/home/*/.ssh/authorized_keys",
    "/root/.ssh/id_*",
    "/home/*/.ssh/id_*",
    "/etc/ssh/ssh_host_*",
    "/root/.aws",
    "/home/*/.aws",
    // The SSM agent's registration.
    "/var/lib/amazon/ssm",
    // The key with which DKMS signs modules, in DKMS's own place and in Ubuntu's; DKMS makes another when it needs one.
    "/var/lib/dkms/mok.*",
    "/var/lib/shim-signed/mok/MOK.*",
];

const HISTORIES: [&str; 8] = [
    "/root/.*_history",
    "/home/*/.*_history",
    "/root/.lesshst",
    "/home/*/.lesshst",
    "/root/.viminfo",
    "/home/*/.viminfo",
    "/root/.wget-hsts",
    "/home/*/.wget-hsts",
];

pub(super) fn stage(distribution: &Distribution) -> Stage {
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let steps = vec![
        Step::new(
            "kernels",
            "Check that every kernel can boot",
            vec![
                Action::Assert(Check::Initramfs { path: distribution.kernel.initramfs.clone() }),
                Action::Assert(Check::DkmsInstalled),
            ],
        )
        .why("an image whose kernel has no initramfs does not boot, and only its users find out")
        .hint("rebuild the initramfs of the kernel that is named, then run this stage again"),
        Step::new(
            "packages",
            "Remove downloaded packages and build trees",
            vec![
                package_run(&distribution.packages.clean).into(),
                Action::Remove { paths: vec![format!("{STATE_DIR}/src")] },
            ],
        ),
        Step::new(
            "cloud-init",
            "Remove cloud-init's state",
            vec![Action::Remove {
                paths: owned(&[
                    "/var/lib/cloud/instance",
                    "/var/lib/cloud/instances",
                    "/var/lib/cloud/data",
                    "/var/lib/cloud/sem",
                    "/var/lib/cloud/scripts/per-boot/efa-gen.sh",
                ]),
            }],
        )
        .why("so that each instance of the image runs cloud-init as new, and none sees the builder's user-data"),
        Step::new(
            "identity",
            "Remove the machine's identity",
            vec![
                Action::Empty { paths: owned(&["/etc/machine-id"]) },
                Action::Remove {
                    paths: owned(&[
                        "/var/lib/dbus/machine-id",
                        "/etc/udev/rules.d/70-persistent-net.rules",
                        "/var/lib/dhclient/*",
                        "/var/lib/dhcp/*.leases",
                    ]),
                },
                Action::Assert(Check::Gone { paths: owned(&["/etc/machine-id", "/var/lib/dbus/machine-id"]) }),
            ],
        ),
        Step::new(
            "secrets",
            "Remove keys, host keys and histories",
            vec![
                Action::Remove { paths: owned(&SECRETS) },
                Action::Remove { paths: owned(&HISTORIES) },
                Action::Assert(Check::Gone { paths: owned(&[&SECRETS[..], &HISTORIES[..]].concat()) }),
            ],
        )
        .why("cloud-init makes new host keys and installs the launch's key on each instance"),
        Step::new(
            "logs",
            "Empty the logs",
            vec![
                Action::Remove {
                    paths: vec![
                        LOG_DIR.to_owned(),
                        "/var/log/journal/*".to_owned(),
                        "/var/log/*.gz".to_owned(),
                        "/var/log/*.[0-9]".to_owned(),
                        "/var/log/*-[0-9]*".to_owned(),
                        "/tmp/*".to_owned(),
                        "/var/tmp/*".to_owned(),
                    ],
                },
                Action::Empty { paths: owned(&["/var/log/*"]) },
            ],
        ),
    ];
    Stage { id: "seal", title: "Seal the image".into(), then: Then::Continue, run: When::Image, steps }
}
