//! The planner's decisions: what every plan must hold, and where the guide is put right.

use std::collections::BTreeSet;

use crate::support::{catalog, plan_of, request};
use efa_gen::plan::{self, Action, Check, Plan, Request, Run, Stage, Then, When};

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

fn runs(plan: &Plan) -> impl Iterator<Item = &Run> {
    actions(plan).filter_map(|action| if let Action::Run(run) = action { Some(run) } else { None })
}

fn line(run: &Run) -> String {
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
        assert_eq!(first, &[Action::Assert(Check::NewestKernel)]);
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
            actions(&plan).filter(|action| matches!(action, Action::Assert(Check::Installed { .. }))).count();
        let installs = runs(&plan).filter(|run| line(run).contains(" install ") && run.packages).count();
        assert_eq!((installs, installed), (3, 3), "{}", plan.distribution);
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
        ("centos7", "1.30.0", "2.18.6-1"),
        ("rhel7.6", "1.30.0", "2.18.6-1"),
        ("ubuntu16", "1.11.2", "2.8.4-1"),
        ("ubuntu18", "1.22.1", "2.18.6-1"),
        ("ubuntu24", "1.50.0", "2.30.4-1"),
        ("debian12", "1.50.0", "2.30.4-1"),
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
    let cases = [
        (good.replace("lib_dir", "libdir"), "unknown field `libdir`"),
        (good.replace("id = \"al1\"", "id = \"al9\""), "its id is `al9`, which must be the file's name"),
        (good.replace("lib_dir = \"lib64\"", "lib_dir = \"$(reboot)\""), "must be lib or lib64"),
        (good.replace("name = \"Amazon Linux 1\"", "name = \"Amazon\\nLinux\""), "must be one line of text"),
        (good.replace("with = \"releasever=2018.03\"", "with = \"a|e reboot\""), "may not hold `|`"),
        (good.replace("refresh = [\"yum\", \"-y\", \"makecache\"]", "refresh = []"), "must not be empty"),
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
    let good = std::fs::read_to_string(crate::support::in_repository("src/catalog/pins.toml")).expect("it is there");
    let sha256 = "e7c22dc21278eb1b82f34a60ad7640b41ad3943d929bebda3008b72536855d31";
    let cases = [
        (good.replace(sha256, "e7c22d"), "`e7c22d` is not a SHA-256"),
        (good.replace(sha256, &sha256.to_uppercase()), "is not a SHA-256"),
        (
            good.replace("https://github.com/NVIDIA/nccl.git", "http://github.com/NVIDIA/nccl.git"),
            "is not an https URL",
        ),
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
        (plan.version("cuda").map(str::to_owned), driver.contains("kernel-open"))
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
