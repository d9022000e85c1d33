//! The planner's decisions: what every plan must hold, and where the guide is put right.

use std::collections::BTreeSet;

use crate::support::{catalog, default_plan, plan_of, request};
use efa_gen::catalog::stack::Pins;
use efa_gen::plan::{self, Action, Assertion, GuestCommand, Plan, Request, Stage, Then, When};

/// Every plan of the catalog: each distribution with its default and its newest stack, with and without GPU.
fn every_plan() -> Vec<Plan> {
    let catalog = catalog();
    let mut plans = Vec::new();
    for distribution in &catalog.distributions {
        for stack in BTreeSet::from([distribution.default.as_str(), "newest"]) {
            for no_gpu in [false, true] {
                let request = Request { no_gpu, ..request(&distribution.id, stack) };
                plans.push(plan::plan(&catalog, &request).expect("every combination of the catalog can be planned"));
            }
        }
    }
    plans
}

fn planned(distribution: &str, stack: &str, instance_type: &str) -> Plan {
    let request = Request { instance_type: Some(instance_type.into()), test: true, ..request(distribution, stack) };
    plan::plan(&catalog(), &request).expect("this combination can be planned")
}

fn actions(plan: &Plan) -> impl Iterator<Item = &Action> {
    plan.stages.iter().flat_map(|stage| &stage.steps).flat_map(|step| &step.actions)
}

fn runs(plan: &Plan) -> impl Iterator<Item = &GuestCommand> {
    actions(plan).filter_map(|action| if let Action::Run(run) = action { Some(run) } else { None })
}

fn line(run: &GuestCommand) -> String {
    run.argv.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn stage<'a>(plan: &'a Plan, id: &str) -> &'a Stage {
    plan.stages.iter().find(|stage| stage.id == id).unwrap_or_else(|| panic!("no stage {id}"))
}

fn position(plan: &Plan, id: &str) -> usize {
    plan.stages.iter().position(|stage| stage.id == id).unwrap_or_else(|| panic!("no stage {id}"))
}

#[test]
fn every_download_has_a_digest_and_every_tree_a_commit() {
    for plan in every_plan() {
        for action in actions(&plan) {
            match action {
                Action::Fetch { url, sha256, .. } => {
                    assert!(url.starts_with("https://") && !url.contains("latest"), "{url}");
                    assert!(sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{url}: {sha256}");
                }
                Action::Checkout { url, commit, .. } => {
                    assert!(url.starts_with("https://") && commit.len() == 40, "{url} {commit}");
                }
                _ => {}
            }
        }
        assert!(plan.components.iter().all(|c| c.digest.is_some() || c.origin.contains("bundled")));
    }
}

#[test]
fn ids_are_unique_and_the_image_is_sealed_last() {
    for plan in every_plan() {
        let stages: BTreeSet<_> = plan.stages.iter().map(|stage| stage.id).collect();
        assert_eq!(stages.len(), plan.stages.len());
        for stage in &plan.stages {
            let steps: BTreeSet<_> = stage.steps.iter().map(|step| &step.id).collect();
            assert_eq!(steps.len(), stage.steps.len(), "{}", stage.id);
            assert_eq!(stage.run == When::Image, stage.id == "seal");
        }
        assert_eq!(plan.stages.last().map(|stage| (stage.id, stage.then)), Some(("seal", Then::Continue)));
    }
}

#[test]
fn the_machine_reboots_into_the_new_kernel_before_anything_is_built_for_it() {
    for plan in every_plan() {
        let gpu = !plan.architectures.is_empty();
        let reboots: Vec<_> =
            plan.stages.iter().filter(|stage| stage.then == Then::Reboot).map(|stage| stage.id).collect();
        assert_eq!(reboots, if gpu { vec!["update", "kernel", "environment"] } else { vec!["update", "environment"] });
        assert!(position(&plan, "update") < position(&plan, "kernel"));
        let first = &stage(&plan, "kernel").steps[0].actions;
        assert_eq!(first, &[Action::Assert(Assertion::NewestKernel)]);
        if gpu {
            assert!(position(&plan, "driver") < position(&plan, "efa"), "EFA's modules are built against the driver's");
        }
        assert!(position(&plan, "kernel") < position(&plan, "efa"));
    }
}

#[test]
fn kernel_arguments_are_added_to_and_never_replaced() {
    for plan in every_plan() {
        for action in actions(&plan) {
            if let Action::WriteFile { path, content, .. } = action {
                assert_ne!(path, "/etc/default/grub");
                let sets_arguments = content.contains("GRUB_CMDLINE_LINUX=");
                assert!(!sets_arguments || content.contains("$GRUB_CMDLINE_LINUX "), "{content}");
            }
        }
        assert!(runs(&plan).all(|run| !line(run).contains("grub2-mkconfig")));
    }
}

#[test]
fn packages_are_installed_by_name_and_each_is_checked() {
    for plan in every_plan() {
        let installed =
            actions(&plan).filter(|action| matches!(action, Action::Assert(Assertion::Installed { .. }))).count();
        let installs = runs(&plan).filter(|run| line(run).contains(" install ") && run.packages).count();
        let hwloc =
            plan.stages.iter().flat_map(|stage| &stage.steps).filter(|step| step.title == "Install hwloc").count();
        assert_eq!((installs, installed), (3 + hwloc, 3 + hwloc), "{}", plan.distribution);
    }
}

#[test]
fn the_plugin_has_a_prefix_and_the_loader_and_mpirun_know_it() {
    let catalog = catalog();
    for distribution in catalog.distributions.iter().filter(|d| d.default == "guide") {
        let request = Request { test: true, ..request(&distribution.id, "guide") };
        let plan = plan::plan(&catalog, &request).expect("it can be planned");
        assert!(runs(&plan).any(|run| line(run).contains("./configure --prefix=/opt/aws-ofi-nccl")));
        let lib = &distribution.lib_dir;
        let known =
            [format!("/opt/amazon/efa/{lib}"), format!("/opt/amazon/openmpi/{lib}"), "/opt/aws-ofi-nccl/lib".into()];
        let loader = actions(&plan).find_map(|action| match action {
            Action::WriteFile { path, content, .. } if path == "/etc/ld.so.conf.d/efa-gen.conf" => Some(content),
            _ => None,
        });
        let mpirun = actions(&plan).find_map(|action| match action {
            Action::NcclTest { argv, .. } => {
                argv.iter().map(ToString::to_string).find(|word| word.starts_with("LD_LIBRARY_PATH="))
            }
            _ => None,
        });
        for folder in known {
            assert!(
                loader.is_some_and(|text| text.lines().any(|line| line == folder)),
                "{}: {folder}",
                distribution.id
            );
            let listed =
                |text: &String| text.trim_start_matches("LD_LIBRARY_PATH=").split(':').any(|part| part == folder);
            assert!(mpirun.as_ref().is_some_and(listed), "{}: {folder}", distribution.id);
        }
    }
}

#[test]
fn builds_are_for_the_chosen_gpu_only_and_bounded() {
    let plan = planned("al2", "newest", "p4d.24xlarge");
    assert_eq!(plan.architectures, ["sm_80"]);
    let makes: Vec<_> =
        runs(&plan).map(line).filter(|line| line.starts_with("make ") && line.contains("NVCC_GENCODE")).collect();
    assert_eq!(makes.len(), 2);
    for make in makes {
        assert!(make.contains("-j{jobs}"), "{make}");
        assert!(
            make.contains("NVCC_GENCODE=-gencode=arch=compute_80,code=sm_80") && make.matches("-gencode").count() == 1,
            "{make}"
        );
    }
}

#[test]
fn newest_fits_the_distribution() {
    for (distribution, efa, nccl) in [
        ("al1", "1.11.2", "2.8.4-1"),
        ("al2", "1.49.0", "2.18.6-1"),
        ("al2-5.10", "1.49.0", "2.18.6-1"),
        ("centos7", "1.30.0", "2.18.6-1"),
        ("rhel7.6", "1.30.0", "2.18.6-1"),
        ("ubuntu16", "1.11.2", "2.8.4-1"),
        ("ubuntu18", "1.22.1", "2.18.6-1"),
        ("ubuntu24", "1.50.0", "2.30.7-1"),
        ("debian12", "1.50.0", "2.30.7-1"),
    ] {
        let plan = plan_of(distribution, "newest");
        assert_eq!((plan.version("efa"), plan.version("nccl")), (Some(efa), Some(nccl)), "{distribution}");
    }
    for distribution in catalog().distributions.iter().filter(|d| d.default == "guide") {
        let plan = plan_of(&distribution.id, "guide");
        assert_eq!(
            (plan.version("efa"), plan.version("cuda"), plan.version("nccl")),
            (Some("1.9.5"), Some("10.1.243"), Some("2.7.8-1"))
        );
        assert_eq!((plan.version("plugin"), plan.version("nccl-tests")), (Some("1.1.0"), Some("bd0755c")));
    }
}

#[test]
fn flags_go_only_where_they_are_known_and_needed() {
    let efa =
        |plan: &Plan| runs(plan).map(line).find(|line| line.starts_with("./efa_installer.sh")).expect("it is run");
    assert_eq!(efa(&plan_of("ubuntu18", "guide")), "./efa_installer.sh -y", "1.9.5 does not know -g");
    let with = |version: &str| {
        let request = Request {
            instance_type: Some("p4d.24xlarge".into()),
            efa: Some(version.into()),
            ..request("centos7", "newest")
        };
        efa(&plan::plan(&catalog(), &request).expect("it can be planned"))
    };
    assert_eq!(with("1.11.2"), "./efa_installer.sh -y -g");
    assert_eq!(with("1.30.0"), "./efa_installer.sh -y", "not needed from 1.14.0 on");

    let variables = |plan: &Plan| {
        let argv =
            actions(plan).find_map(|action| if let Action::NcclTest { argv, .. } = action { Some(argv) } else { None });
        argv.expect("the test is planned").iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let guide = variables(&planned("ubuntu18", "guide", "p3dn.24xlarge"));
    assert!(guide.contains("NCCL_ALGO=Ring") && !guide.contains("NCCL_TREE_THRESHOLD"), "{guide}");
    assert!(!guide.contains("FI_EFA_USE_DEVICE_RDMA"), "libfabric aborts where the device can't: {guide}");
    assert!(guide.contains("--mca pml ^cm"), "{guide}");
    let old = variables(&planned("ubuntu18", "newest", "p4d.24xlarge"));
    assert!(old.contains("FI_EFA_USE_DEVICE_RDMA=1") && old.contains("NCCL_NET=AWS Libfabric"), "{old}");
    let new = variables(&planned("al2", "newest", "p4d.24xlarge"));
    assert!(new.contains("NCCL_NET=Libfabric") && !new.contains("FI_EFA_USE_DEVICE_RDMA"), "{new}");
}

#[test]
fn the_fabric_manager_is_the_driver_s_and_only_where_an_nvswitch_is() {
    let plan = planned("centos7", "newest", "p4d.24xlarge");
    assert_eq!(plan.version("fabric-manager"), plan.version("driver"));
    for instance_type in ["p3dn.24xlarge", "g5.48xlarge"] {
        assert_eq!(planned("centos7", "newest", instance_type).version("fabric-manager"), None, "{instance_type}");
    }
}

/// The modules of a kernel may be a package of their own, or be in the kernel's own: apt knows.
#[test]
fn modules_apart_from_the_kernel_are_installed_where_there_are_such() {
    let command = catalog().distribution("ubuntu24").expect("it is known").fabric.clone().expect("it has one").modules;
    let run = |cache: &str, get: &str| {
        let folder = crate::support::scratch();
        for (program, body) in [("apt-cache", cache), ("apt-get", get)] {
            let path = folder.path().join(program);
            std::fs::write(
                &path,
                format!("#!/bin/sh\necho \"$@\" >>{}/{program}.calls\n{body}\n", folder.path().display()),
            )
            .expect("a file");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        }
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let words = command[1..].iter().map(|word| word.replace("{kernel}", "6.17.0-1001-aws"));
        let ran = std::process::Command::new(&command[0]).args(words).env("PATH", path).output().expect("it starts");
        let calls = std::fs::read_to_string(folder.path().join("apt-get.calls")).unwrap_or_default();
        (ran.status.code(), calls)
    };
    let (status, calls) = run("exit 0", "exit 0");
    assert!(status == Some(0) && calls.ends_with("install linux-modules-extra-6.17.0-1001-aws\n"), "{calls}");
    assert_eq!(run("exit 0", "exit 100").0, Some(100), "a package that is there and can't be installed is an error");
    // modinfo has the last word.
    assert_eq!(run("echo 'E: No packages found' >&2; exit 100", "exit 0"), (Some(0), String::new()));
}

fn refused(catalog: &efa_gen::catalog::Catalog, distribution: &str, instance_type: &str) -> String {
    let request = Request { instance_type: Some(instance_type.into()), ..request(distribution, "newest") };
    plan::plan(catalog, &request).expect_err("it can't be planned").to_string()
}

#[test]
fn nvlink_5_gets_its_subnet_manager_and_what_that_needs_or_a_reason() {
    for (distribution, instance_type) in [("ubuntu24", "p6-b200.48xlarge"), ("debian12", "p6-b300.48xlarge")] {
        let plan = planned(distribution, "newest", instance_type);
        assert_eq!(plan.version("fabric-manager"), plan.version("driver"));
        // R595 and R580 have each their own.
        let nvlsm = if distribution == "ubuntu24" { "2025.10.11" } else { "2025.06.5" };
        assert_eq!(plan.version("nvlsm"), Some(nvlsm));
        assert!(plan.notes.iter().any(|note| note.contains(&format!("subnet manager {nvlsm}"))), "{:?}", plan.notes);
        let release = actions(&plan).find_map(|action| match action {
            Action::WriteFile { path, content, .. } if path == plan::RELEASE_FILE => Some(content),
            _ => None,
        });
        assert!(release.expect("there is a record").contains("\"nvlsm\""));
        let at = |stage_id: &str, id: &str| {
            let place = stage(&plan, stage_id).steps.iter().position(|step| step.id == id);
            place.unwrap_or_else(|| panic!("{distribution}: no step {stage_id}.{id}"))
        };
        assert!(at("driver", "nvlsm") > at("driver", "fabric-manager"));
        assert!(at("efa", "infiniband") > at("efa", "install"), "EFA's rdma-core comes first");
        let step = &stage(&plan, "efa").steps[at("efa", "infiniband")];
        assert!(
            step.actions
                .iter()
                .any(|action| matches!(action, Action::WriteFile { content, .. } if content == "mlx5_ib\nib_umad\n"))
        );
        let asked = |module: &str| {
            let wanted = format!("modinfo -k {{kernel}} {module}");
            step.actions.iter().any(|action| {
                let Action::Assert(Assertion::Prints { argv, .. }) = action else { return false };
                argv.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ") == wanted
            })
        };
        assert!(asked("mlx5_ib") && asked("ib_umad"));
    }
    for instance_type in ["p5.48xlarge", "p5.4xlarge", "g6.48xlarge"] {
        let plan = planned("ubuntu24", "newest", instance_type);
        assert_eq!(plan.version("nvlsm"), None, "{instance_type}");
        assert!(stage(&plan, "efa").steps.iter().all(|step| step.id != "infiniband"), "{instance_type}");
    }

    let whole = std::fs::read_to_string(crate::support::in_repository("distros/ubuntu24.toml")).expect("it is there");
    let (before, after) = whole.split_once("[fabric]\n").expect("it has one");
    let without = format!("{before}{}", after.split_once("\n\n").expect("others follow").1);
    let distribution = efa_gen::catalog::distribution::Distribution::parse("ubuntu24", &without).expect("it is whole");
    let of = |pins: efa_gen::catalog::stack::Pins| {
        efa_gen::catalog::Catalog::new(vec![distribution.clone()], pins).expect("the catalog takes it")
    };
    let said = refused(&of(catalog().pins), "ubuntu24", "p6-b200.48xlarge");
    assert!(
        said.contains(
            "p6-b200.48xlarge needs the kernel modules mlx5_ib and ib_umad, and no package of Ubuntu 24.04 is known to have them"
        ),
        "{said}"
    );
    assert!(plan::plan(&of(catalog().pins), &request("ubuntu24", "newest")).is_ok(), "others do not need it");
    let mut pins = catalog().pins;
    pins.driver.iter_mut().for_each(|driver| driver.nvlsm = None);
    let said = refused(
        &efa_gen::catalog::Catalog::new(catalog().distributions, pins).expect("it is whole"),
        "ubuntu24",
        "p6-b200.48xlarge",
    );
    assert!(
        said.contains("p6-b200.48xlarge needs an NVLink subnet manager, and none is pinned for driver 595.91.07"),
        "{said}"
    );
    let mut pins = catalog().pins;
    pins.driver.iter_mut().for_each(|driver| driver.fabric_manager = None);
    let said = refused(
        &efa_gen::catalog::Catalog::new(catalog().distributions, pins).expect("it is whole"),
        "ubuntu24",
        "p5.48xlarge",
    );
    assert!(said.contains("p5.48xlarge has an NVSwitch, and no fabric manager 595.91.07 is pinned"), "{said}");
}

#[test]
fn the_fabric_manager_s_libraries_lie_where_the_distribution_has_its_own() {
    for (distribution, folder) in [("centos7", "/usr/lib64/"), ("ubuntu24", "/usr/lib/")] {
        let plan = planned(distribution, "newest", "p4d.24xlarge");
        assert!(
            runs(&plan).any(|run| line(run) == format!("cp -R --remove-destination lib/. {folder}")),
            "{distribution}"
        );
    }
}

/// Whatever installs a driver sees whether it is the wanted one, also on a builder without a GPU; and the machine that is
/// launched sees it again.
#[test]
fn the_module_s_flavour_is_asserted_wherever_a_driver_is_installed() {
    for plan in every_plan() {
        let gpu = !plan.architectures.is_empty();
        let licenses: Vec<_> = actions(&plan)
            .filter_map(|action| match action {
                Action::Assert(Assertion::Prints { argv, text })
                    if argv.iter().any(|word| word.to_string() == "license") =>
                {
                    Some(text)
                }
                _ => None,
            })
            .collect();
        let checks: Vec<_> = actions(&plan)
            .filter_map(|action| match action {
                Action::Assert(Assertion::ModuleFlavour { flavour, license }) => Some((flavour.as_str(), license)),
                _ => None,
            })
            .collect();
        assert_eq!((licenses.len(), checks.len()), (usize::from(gpu), usize::from(gpu)), "{}", plan.distribution);
        for (flavour, license) in checks {
            let wanted = if flavour == "open" { "Dual MIT/GPL" } else { "NVIDIA" };
            assert_eq!((license.as_str(), licenses[0].as_str()), (wanted, wanted), "{}", plan.distribution);
        }
    }
}

#[test]
fn what_keeps_the_gpus_ready_fits_the_init_system_the_module_and_the_installer() {
    let modules = |plan: &Plan| {
        actions(plan).find_map(|action| match action {
            Action::WriteFile { path, content, .. } if path == "/etc/modules-load.d/efa-gen-gpu.conf" => {
                Some(content.clone())
            }
            _ => None,
        })
    };
    let lines = |plan: &Plan| runs(plan).map(line).collect::<Vec<_>>();
    let blackwell = planned("ubuntu24", "newest", "p6-b200.48xlarge");
    assert_eq!(modules(&blackwell).as_deref(), Some("nvidia-uvm\nefa_nv_peermem\n"));
    assert!(lines(&blackwell).contains(&"systemctl enable nvidia-persistenced.service".to_owned()));
    assert!(lines(&blackwell).contains(&"ln -sfn /usr/local/cuda-13.2 /usr/local/cuda".to_owned()));
    let volta = planned("ubuntu24", "newest", "p3dn.24xlarge");
    assert_eq!(modules(&volta).as_deref(), Some("nvidia-uvm\n"), "efa_nv_peermem refuses the proprietary module");
    assert_eq!(modules(&plan_of("centos7", "guide")).as_deref(), Some("nvidia-uvm\n"), "EFA 1.9.5 has no such module");
    let upstart = plan_of("al1", "guide");
    assert_eq!(modules(&upstart), None);
    let job = |action: &Action| matches!(action, Action::WriteFile { path, .. } if path == "/etc/init/nvidia-persistenced.conf");
    assert!(actions(&upstart).any(job));
    let none =
        plan::plan(&catalog(), &Request { no_gpu: true, ..request("ubuntu24", "newest") }).expect("it can be planned");
    assert_eq!(modules(&none), None);
}

#[test]
fn gpudirect_and_ptrace_are_checked_where_the_plan_promises_them() {
    let has = |plan: &Plan, wanted: &Assertion| {
        actions(plan).any(|action| matches!(action, Action::Assert(check) if check == wanted))
    };
    for (distribution, instance_type, gpudirect, ptrace) in [
        ("ubuntu24", "p5.48xlarge", true, true),
        ("ubuntu24", "p3dn.24xlarge", false, true),
        ("centos7", "p4d.24xlarge", true, false),
    ] {
        let plan = planned(distribution, "newest", instance_type);
        assert_eq!(has(&plan, &Assertion::PeerToPeer), gpudirect, "{distribution} {instance_type}");
        assert_eq!(has(&plan, &Assertion::PtraceScope), ptrace, "{distribution} {instance_type}");
        let writes = |action: &Action| matches!(action, Action::WriteFile { content, .. } if content == "kernel.yama.ptrace_scope = 0\n");
        assert_eq!(actions(&plan).any(writes), ptrace, "{distribution} {instance_type}");
    }
}

#[test]
fn without_a_gpu_there_is_nothing_of_nvidia() {
    for plan in every_plan().into_iter().filter(|plan| plan.architectures.is_empty()) {
        let text = serde_json::to_string(&plan.stages).expect("a plan is plain data").to_lowercase();
        for word in ["cuda", "nccl\"", "/opt/nccl", "nouveau", "nvidia-smi"] {
            assert!(!text.contains(word), "{}: {word}", plan.distribution);
        }
        assert_eq!(plan.components.len(), 1);
    }
}

#[test]
fn the_digest_tells_plans_apart_and_nothing_else() {
    assert_eq!(plan_of("al2", "guide").digest(), plan_of("amazon-linux-2", "guide").digest());
    let digests: BTreeSet<_> = every_plan().iter().map(Plan::digest).collect();
    assert_eq!(digests.len(), every_plan().len());
}

#[test]
fn distribution_files_are_strict() {
    use efa_gen::catalog::distribution::Distribution;
    let good = std::fs::read_to_string(crate::support::in_repository("distros/al1.toml")).expect("it is there");
    let (before, after) = good.split_once("drivers = [").expect("it has them");
    let without_drivers = format!("{before}drivers = []\n{}", after.split_once("]\n").expect("a list").1);
    let cases = [
        (good.replace("lib_dir", "libdir"), "unknown field `libdir`"),
        (good.replace("id = \"al1\"", "id = \"al9\""), "its id is `al9`, which must be the file's name"),
        (good.replace("lib_dir = \"lib64\"", "lib_dir = \"$(reboot)\""), "must be lib or lib64"),
        (good.replace("name = \"Amazon Linux 1\"", "name = \"Amazon\\nLinux\""), "must be one line of text"),
        (good.replace("with = \"releasever=2018.03\"", "with = \"a|e reboot\""), "may not hold `|`"),
        (good.replace("refresh = [\"yum\", \"-y\", \"makecache\"]", "refresh = []"), "must not be empty"),
        (good.replace("openssh = \"7.4\"", "openssh = \"7.4p1\""), "ami.openssh is `7.4p1`, must be two numbers"),
        (good.replace("openssh = \"7.4\"", "openssh = \"7\""), "ami.openssh is `7`, must be two numbers"),
        (good.replace("openssh = \"7.4\"\n", ""), "missing field `openssh`"),
        (without_drivers, "drivers must not be empty"),
        (format!("{good}[fabric]\n"), "missing field `packages`"),
        (good.replace("baseurl={url}", "baseurl=https://a.example"), "must say {url}, where"),
        (
            good.replace(
                "[kernel.hold]",
                "[kernel.compiler]\npackage = \"gcc72\"\nprogram = \"gcc{major}\"\n[kernel.hold]",
            ),
            "`gcc72` must say {major}",
        ),
        (good.replace("[ami]", "[ami"), "distribution file al1.toml"),
        (String::new(), "missing field"),
    ];
    for (text, words) in cases {
        let error = Distribution::parse("al1", &text).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn stack_files_are_strict() {
    use efa_gen::catalog::stack::Pins;
    let good =
        std::fs::read_to_string(crate::support::in_repository("src/catalog/data/pins.toml")).expect("it is there");
    let sha256 = "e7c22dc21278eb1b82f34a60ad7640b41ad3943d929bebda3008b72536855d31";
    let cases = [
        (good.replace(sha256, "e7c22d"), "`e7c22d` is not a SHA-256"),
        (good.replace(sha256, &sha256.to_uppercase()), "is not a SHA-256"),
        (
            good.replace("https://github.com/NVIDIA/nccl.git", "http://github.com/NVIDIA/nccl.git"),
            "is not an https URL",
        ),
        (
            good.replace("4130187cb503805eb3c4d349513495bdb3c53e503a5b737b5d6053f623989c70", "4130"),
            "`4130` is not a SHA-256",
        ),
        (good.replace("version = \"2025.06.5\"", "verison = \"2025.06.5\""), "unknown field `verison`"),
        (good.replace("033d799524fb97629af5ac2f609de367472b2696", "v2.7.8-1"), "`v2.7.8-1` is not a commit"),
        (
            good.replace("nccl = \"2.7.8-1\"", "nccl = \"9.9\""),
            "stack `guide` names NCCL 9.9, which is not in the file",
        ),
        (good.replace("id = \"guide\"", "id = \"new est\""), "stack id `new est` must be"),
        (good.replace("id = \"guide\"", "id = \"newest\""), "stack id `newest` must be"),
    ];
    for (text, words) in cases {
        let error = Pins::parse("mine.toml", &text, &Pins::default()).expect_err(words).to_string();
        assert!(error.starts_with("stack file mine.toml: ") && error.contains(words), "{error}");
    }
}

#[test]
fn newest_is_what_the_gpu_can_take() {
    let versions = |instance_type: &str| {
        let plan = planned("debian12", "newest", instance_type);
        let driver = runs(&plan).map(line).find(|line| line.contains("driver.run")).expect("it is installed");
        (plan.version("cuda").map(str::to_owned), driver.contains("--kernel-module-type=open"))
    };
    assert_eq!(versions("p6-b200.48xlarge"), (Some("13.0.2".into()), true));
    assert_eq!(versions("p3dn.24xlarge"), (Some("12.9.1".into()), false), "Volta needs the proprietary modules");
}

#[test]
fn a_stack_of_one_s_own_stands_beside_the_known_artifacts() {
    let digest = "ab".repeat(32);
    let own = format!(
        r#"
[[efa]]
version = "1.33.0"
download = {{ url = "https://artifacts.example/efa.tar.gz", sha256 = "{digest}", published = "us" }}
[[stack]]
id = "ours"
title = "Ours"
efa = "1.33.0"
cuda = "12.2.2"
driver = "535.129.03"
nccl = "2.18.6-1"
plugin = "1.7.4"
nccl_tests = "2.16.8"
run_environment = []
"#
    );
    let catalog = catalog().with_stacks("ours.toml", &own).expect("it names what is known");
    let request = Request { mirror: Some("http://mirror.example/efa".into()), ..request("centos7", "ours") };
    let plan = plan::plan(&catalog, &request).expect("it can be planned");
    let urls: Vec<_> = actions(&plan)
        .filter_map(|action| match action {
            Action::Fetch { url, .. } | Action::Checkout { url, .. } => Some(url.as_str()),
            _ => None,
        })
        .collect();
    assert!(urls.contains(&"http://mirror.example/efa/artifacts.example/efa.tar.gz"), "{urls:?}");
    assert!(urls.contains(&"http://mirror.example/efa/github.com/NVIDIA/nccl.git"), "{urls:?}");
    assert!(urls.iter().all(|url| url.starts_with("http://mirror.example/efa/")), "{urls:?}");
    assert_eq!(plan.components[0].digest, Some(format!("sha256:{digest}")));

    let again = catalog.with_stacks("ours.toml", &own).expect_err("its name is taken").to_string();
    assert!(again.contains("there is a stack `ours` already"), "{again}");
}

fn steps(plan: &Plan) -> Vec<&efa_gen::plan::Step> {
    plan.stages.iter().flat_map(|stage| &stage.steps).collect()
}

/// Every stack that a distribution can have.
fn plans_of(distribution: &str) -> Vec<Plan> {
    let catalog = catalog();
    let stacks = catalog.pins.stack.iter().map(|stack| stack.id.as_str());
    stacks.filter_map(|stack| plan::plan(&catalog, &request(distribution, stack)).ok()).collect()
}

#[test]
fn what_may_bring_the_distribution_s_rdma_core_comes_after_efa() {
    let mut found = 0;
    for distribution in catalog().distributions {
        for plan in plans_of(&distribution.id) {
            for (index, stage) in plan.stages.iter().enumerate() {
                let text = serde_json::to_string(stage).expect("a stage is plain data");
                for name in &distribution.packages.names.hwloc {
                    if text.contains(name) {
                        found += 1;
                        assert!(index > position(&plan, "efa"), "{}: {}", distribution.id, stage.id);
                    }
                }
                // And the repositories that are off by default are on for nothing else.
                assert_eq!(
                    text.contains("--enablerepo=*optional-rpms"),
                    text.contains("hwloc") && distribution.packages.install_optional.is_some(),
                    "{}: {}",
                    distribution.id,
                    stage.id
                );
                assert!(!text.contains("*optional*"), "it turns on sources and debug packages, too");
            }
        }
    }
    assert!(found > 5, "{found}");
}

#[test]
fn modules_are_built_by_the_kernel_s_compiler_and_it_is_found_before_the_first_long_step() {
    for plan in every_plan() {
        let all = steps(&plan);
        let at = |id: &str| all.iter().position(|step| step.id == id);
        let found = all.iter().position(|step| {
            step.actions
                .iter()
                .any(|action| matches!(action, Action::KernelCompiler { version, .. } if version == "/proc/version"))
        });
        assert!(found > at("compilers") && (found < at("driver") || at("driver").is_none()), "{}", plan.distribution);
        let builders: Vec<_> = runs(&plan)
            .filter(|run| line(run).contains("driver.run") || line(run).starts_with("./efa_installer.sh"))
            .collect();
        assert_eq!(builders.len(), if plan.architectures.is_empty() { 1 } else { 2 });
        for run in builders {
            let cc = run.environment.iter().find(|(name, _)| name == "CC").map(|(_, value)| value.as_str());
            assert_eq!(cc, Some("/var/lib/efa-gen/kernel-gcc"), "{}", line(run));
        }
    }
}

#[test]
fn two_images_of_one_release_are_told_apart_by_their_kernel() {
    let catalog = catalog();
    let kernel = |id: &str| {
        let plan = default_plan(id);
        let found = actions(&plan).find_map(|action| match action {
            Action::Assert(Assertion::System { id, version, kernel, .. }) => {
                Some((id.clone(), version.clone(), kernel.clone()))
            }
            _ => None,
        });
        found.expect("the machine is checked")
    };
    let (old, new) = (kernel("al2"), kernel("al2-5.10"));
    assert_eq!((&old.0, &old.1), (&new.0, &new.1), "os-release does not tell");
    assert_eq!((old.2.as_deref(), new.2.as_deref()), (Some("4.14."), Some("5.10.")));
    for one in &catalog.distributions {
        for other in catalog.distributions.iter().filter(|other| other.id > one.id) {
            assert_ne!(one.os_release, other.os_release, "{} and {}", one.id, other.id);
            assert_ne!(one.ami.name, other.ami.name, "{} and {}", one.id, other.id);
        }
    }
    // The guide's installer and driver are older than that kernel.
    let error = plan::plan(&catalog, &request("al2-5.10", "guide")).expect_err("it can't be").to_string();
    assert!(error.contains("EFA installer 1.9.5 does not support Amazon Linux 2 (kernel 5.10) yet"), "{error}");
    let plan = default_plan("al2-5.10");
    assert_eq!((plan.version("efa"), plan.version("driver")), (Some("1.49.0"), Some("535.129.03")));
}

/// As EC2 compares names: `*` is any text, `?` any one character.
fn matches_name(filter: &str, name: &str) -> bool {
    match (filter.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            matches_name(&filter[1..], name)
                || name.chars().next().is_some_and(|c| matches_name(filter, &name[c.len_utf8()..]))
        }
        (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
            matches_name(&filter[wanted.len_utf8()..], &name[found.len_utf8()..])
        }
        _ => false,
    }
}

#[test]
fn red_hat_s_images_are_hourly_ones_of_the_asked_minor_release() {
    let catalog = catalog();
    for minor in ["7.6", "7.7", "7.8"] {
        let filter = &catalog.distribution(&format!("rhel{minor}")).expect("the catalog has it").ami.name;
        let named = |rest: &str| matches_name(filter, &format!("RHEL-{rest}"));
        assert!(named(&format!("{minor}_HVM-20190515-x86_64-0-Hourly2-GP2")), "{filter}");
        for other in [
            format!("{minor}_HVM_BETA-20180814-x86_64-0-Hourly2-GP2"),
            format!("{minor}_HVM-20190515-x86_64-0-Access2-GP2"),
            format!("{minor}_HVM-20190515-arm64-0-Hourly2-GP2"),
            format!("{minor}_HVM-20190515-x86_64-0-Hourly2-GP2-SQL_2017_Enterprise"),
            format!("{minor}_HVM_BETA-20180814-x86_64-0-Access2-GP2"),
            "7.9_HVM-20200917-x86_64-0-Hourly2-GP2".to_owned(),
            format!("{minor}0_HVM-20190515-x86_64-0-Hourly2-GP2"),
        ] {
            assert!(!named(&other), "{filter} takes RHEL-{other}");
        }
    }
}

#[test]
fn red_hat_s_client_is_updated_first_and_unpinned_on_every_minor_release() {
    for minor in ["7.6", "7.7", "7.8"] {
        let plan = default_plan(&format!("rhel{minor}"));
        let prepare: Vec<_> = stage(&plan, "prepare").steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(prepare, ["machine", "cloud-init", "rhui-client", "pin-release", "tools"], "{minor}");
        let client = &stage(&plan, "prepare").steps[2];
        assert_eq!(client.actions[0], Action::Remove { paths: vec!["/etc/yum/vars/releasever".into()] });
        assert!(client.hint.as_ref().is_some_and(|hint| hint.contains("--yum-repository")), "{:?}", client.hint);
        assert!(plan.notes[0].contains("not proven"), "{:?}", plan.notes);
    }
}

#[test]
fn a_repository_of_one_s_own_stands_instead_of_the_distribution_s() {
    let catalog = catalog();
    let url = "http://packages.example/rhel/$releasever/$basearch/";
    for id in ["al1", "al2", "al2-5.10", "centos7", "rhel7.6", "rhel7.7", "rhel7.8"] {
        let own = Request { yum_repository: Some(url.into()), ..request(id, "newest") };
        let plan = plan::plan(&catalog, &own).expect("it can be planned");
        let prepare: Vec<_> = stage(&plan, "prepare").steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(prepare, ["machine", "cloud-init", "own-repository", "tools"], "{id}: before anything is installed");
        let [Action::WriteFile { path, content, .. }, Action::EnsureLine { path: conf, line }] =
            &stage(&plan, "prepare").steps[2].actions[..]
        else {
            panic!("{id}: a file, and the line that turns the others off");
        };
        assert_eq!((conf.as_str(), line.as_str()), ("/etc/yum.conf", "reposdir=/etc/efa-gen/yum.repos.d"));
        assert!(path.starts_with("/etc/efa-gen/yum.repos.d/"), "{path}");
        assert!(content.contains(&format!("\nbaseurl={url}\n")) && content.contains("\ngpgcheck=1\n"), "{content}");
        let text = serde_json::to_string(&plan.stages).expect("a plan is plain data");
        assert!(!text.contains("--enablerepo") && !text.contains("{url}"), "{id}");
        assert!(plan.notes.iter().any(|note| note.contains(url)), "{:?}", plan.notes);
        assert_ne!(plan.digest(), plan_of(id, "newest").digest());
    }
    for id in ["ubuntu16", "ubuntu18", "ubuntu24", "debian12"] {
        let own =
            Request { yum_repository: Some(url.into()), ..Request { distribution: id.into(), ..Request::default() } };
        let error = plan::plan(&catalog, &own).expect_err("it has no yum").to_string();
        assert!(error.contains("--yum-repository is not for "), "{error}");
    }
    for good in ["https://packages.example/el7", "http://10.0.0.7:8080/a/$basearch"] {
        assert_eq!(plan::parse_yum_repository(good).expect("an address"), good);
    }
    for (bad, words) in [
        ("", "is not the address of a yum repository"),
        ("packages.example/el7", "is not the address of a yum repository"),
        ("ftp://packages.example/el7", "is not the address of a yum repository"),
        ("file:///srv/el7", "is not the address of a yum repository"),
        ("https://", "is not the address of a yum repository"),
        ("https://a.example/el7 https://b.example/el7", "is not the address of a yum repository"),
        ("https://a.example/el7\nenabled=0", "is not the address of a yum repository"),
        ("https://me:secret@packages.example/el7", "a user name or password"),
        ("https://packages.example/el7?token=secret", "a query or a fragment"),
    ] {
        let error = plan::parse_yum_repository(bad).expect_err(bad).to_string();
        assert!(error.contains(words) && !error.contains("secret"), "{bad}: {error}");
    }
}

#[test]
fn gdrcopy_is_installed_where_it_is_asked_for() {
    let plan = |distribution: &str, stack: &str| {
        let request = Request { gdrcopy: true, ..request(distribution, stack) };
        plan::plan(&catalog(), &request)
    };
    let ids = |plan: &Plan, id: &str| stage(plan, id).steps.iter().map(|step| step.id.clone()).collect::<Vec<_>>();
    let gdrcopy = "gdrcopy".to_owned();
    for distribution in ["ubuntu24", "debian12"] {
        let without = plan_of(distribution, "newest");
        let with = plan(distribution, "newest").expect("it can be planned");
        for id in ["driver", "environment", "check"] {
            assert!(!ids(&without, id).contains(&gdrcopy), "{distribution} {id}");
            let mut more = ids(&with, id);
            more.retain(|step| *step != gdrcopy);
            assert_eq!(more, ids(&without, id), "{distribution}: nothing else changes");
        }
        // Its module is built against the driver, its programs by CUDA.
        assert_eq!(ids(&with, "driver").last(), Some(&gdrcopy));
        let lines = runs(&with).map(line).collect::<Vec<_>>();
        let module = "make -j{jobs} KVER={kernel} CC=/var/lib/efa-gen/kernel-gcc drv_install";
        assert!(lines.iter().any(|line| line == module), "{lines:?}");
        assert!(lines.contains(&"systemctl enable gdrdrv.service".to_owned()), "{lines:?}");
        let libraries = |action: &Action| matches!(action, Action::WriteFile { path, content, .. } if path == "/etc/ld.so.conf.d/efa-gen.conf" && content.ends_with("/opt/gdrcopy/lib\n"));
        assert!(actions(&with).any(libraries));
        let component = with.components.iter().find(|component| component.name == "gdrcopy").expect("it is told");
        assert_eq!(component.digest.as_deref(), Some("commit:c91ad9f178e5fb729fc5b6dc62a77c3bb364d6c9"));
    }
    let refused = plan("centos7", "guide").expect_err("none goes with that driver");
    assert!(refused.to_string().contains("stack `guide` has no GDRCopy"), "{refused}");
    let no_gpu = Request { gdrcopy: true, no_gpu: true, ..request("ubuntu24", "newest") };
    let refused = plan::plan(&catalog(), &no_gpu).expect_err("there is no GPU");
    assert!(refused.to_string().contains("needs a GPU stack"), "{refused}");
}

/// Upstart has no unit for it, whatever a stack file of one's own says.
#[test]
fn gdrcopy_is_refused_where_nobody_knows_how_it_starts() {
    let own = "[[stack]]\nid = \"own\"\ntitle = \"own\"\nefa = \"1.11.2\"\ncuda = \"11.0.3\"\ndriver = \"450.248.02\"\n\
               nccl = \"2.8.4-1\"\nplugin = \"1.1.3\"\nnccl_tests = \"bd0755c\"\ngdrcopy = \"2.5.2\"\n";
    let mut catalog = catalog();
    catalog.pins = Pins::parse("own.toml", own, &catalog.pins).expect("it is a stack file");
    let request = Request { gdrcopy: true, ..request("al1", "own") };
    let refused = plan::plan(&catalog, &request).expect_err("there is no unit");
    assert!(
        refused.to_string().contains("how Amazon Linux 1 starts GDRCopy's module at boot is not known"),
        "{refused}"
    );
}
