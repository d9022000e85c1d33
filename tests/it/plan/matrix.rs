//! What goes with what, as one page: `snapshots/matrix.md`. Every cell is an answer of the rules' one reader.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::support::{catalog, in_repository, request};
use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::catalog::instance_type::{Fabric, InstanceType};
use efa_gen::error::Class;
use efa_gen::plan::compatibility::{Combination, RULES, modules, violations};
use efa_gen::plan::{self, Request};

/// Longest cell, in characters.
const WIDTH: usize = 20;

/// What stands above the tables.
const HEAD: &str = "\
# What goes with what

Each row is one or more instance types with EFA, each column a software stack of `src/catalog/data/pins.toml`. A cell is what an
image for that type gets:

- `580/open/nvswitch`: driver branch 580, its open kernel modules, and what connects the GPUs. `none`: nothing has to be set up;
  `nvswitch`: a fabric manager; `nvlink5`: a fabric manager and an NVLink subnet manager.
- `efa 1.50.0`: a type without an NVIDIA GPU, built with `--no-gpu`: this EFA installer and nothing else.
- `-rule`: refused. It is the first rule of the list below that does not hold.

Types with equal rows share one; `p5.*` means every EFA size of that family.

The facts and their sources are in `src/catalog/data/` and `distros/`. Known limits of this table:

- AWS does not publish which EFA device an instance type has. `efa-device` goes by the type's Nitro version, or takes the newest
  device that it could be, so it may refuse a combination that works. The stage `check` compares the number of EFA devices with what
  `fi_info` reports.
- g7: AWS runs it on driver 595; NVIDIA lists its GPU in 580.142, and not in 590 nor in 595.45.04 and older. Both branches are
  accepted, and the plan says so.
- gcc 4.8.5 (Amazon Linux 1, CentOS 7, RHEL 7) with CUDA 11.0 and newer: older than NVIDIA supports. It is not known to fail, and was
  not tested.
- Driver 418.87.00 does not build on kernel 5.6 or newer. On 5.4 only nvidia-drm fails to build, and efa-gen does not build it.
- p4d on Ubuntu 18.04: GPUDirect works on the kernels of the public archive (up to 5.4.0-1103-aws). Those of Ubuntu Pro need EFA 1.29.0
  or newer (aws/aws-parallelcluster#6014), which does not support 18.04.
- Driver 535.129.03 with its proprietary modules on Debian 12: some 6.1 kernels broke older NVIDIA drivers (a GPL-only symbol). Today's
  were not tested.
- No rule compares EFA's kernel module with the kernel, NCCL with CUDA, or an old kernel with a new machine; boot modes are compared
  when an image is built or launched.
- efa-1.51: nobody publishes its digest. You supply one, from a tarball whose signature you verified (`--efa-digest`).
";

struct Matrix {
    catalog: Catalog,
}

impl Matrix {
    fn cell(&self, distribution: &Distribution, stack: &str, instance_type: &InstanceType) -> String {
        let stack = self.catalog.stack(stack).expect("it is in the catalog");
        let driver = &stack.driver.version;
        let combination = Combination {
            distribution,
            stack,
            efa: &stack.stack.efa,
            instance_type: Some(instance_type),
            no_gpu: instance_type.gpu.is_none(),
            modules: modules(driver, instance_type.gpu.as_ref()),
        };
        if let Some(first) = violations(&combination).first() {
            return format!("-{}", first.rule);
        }
        if combination.no_gpu {
            return format!("efa {}", stack.stack.efa);
        }
        let fabric = match instance_type.fabric {
            Fabric::None => "none",
            Fabric::NvSwitch => "nvswitch",
            Fabric::NvLink5 => "nvlink5",
            Fabric::Imex => "imex",
        };
        let branch = driver.split('.').next().expect("a version has a first number");
        format!("{branch}/{}/{fabric}", combination.modules.name())
    }

    /// Types with equal rows, by what their row says.
    fn rows(&self, distribution: &Distribution) -> Vec<(Vec<&InstanceType>, Vec<String>)> {
        let mut rows: Vec<(Vec<&InstanceType>, Vec<String>)> = Vec::new();
        for instance_type in &self.catalog.instance_types {
            let stacks = self.catalog.pins.stack.iter();
            let cells: Vec<String> = stacks.map(|stack| self.cell(distribution, &stack.id, instance_type)).collect();
            match rows.iter_mut().find(|(_, known)| *known == cells) {
                Some((types, _)) => types.push(instance_type),
                None => rows.push((vec![instance_type], cells)),
            }
        }
        rows
    }

    /// `p5.*` where every type of the family stands in this row.
    fn names(&self, types: &[&InstanceType]) -> String {
        let mut names = Vec::new();
        let families: BTreeSet<&str> = types.iter().map(|one| one.family()).collect();
        for family in families {
            let here: Vec<&str> =
                types.iter().filter(|one| one.family() == family).map(|one| one.name.as_str()).collect();
            let all = self.catalog.instance_types.iter().filter(|one| one.family() == family).count();
            if here.len() == all && all > 1 {
                names.push(format!("{family}.*"));
            } else {
                names.extend(here.into_iter().map(str::to_owned));
            }
        }
        names.join(", ")
    }

    fn page(&self) -> String {
        let mut page = format!(
            "{HEAD}\n## Rules\n\n| rule | what must hold | can be overridden with `--allow` |\n|---|---|---|\n"
        );
        for rule in RULES {
            let allow = if rule.allowable { "yes" } else { "no" };
            writeln!(page, "| {} | {} | {allow} |", rule.id, rule.title).expect("a string takes it");
        }
        for distribution in &self.catalog.distributions {
            let stacks: Vec<&str> = self.catalog.pins.stack.iter().map(|stack| stack.id.as_str()).collect();
            let newest = distribution.newest.join(", ");
            write!(
                page,
                "\n## {}\n\n`--stack newest` is the first of these that fits: {newest}. Without `--stack`: {}.\n\n| type | {} |\n|---{}|\n",
                distribution.name,
                distribution.default,
                stacks.join(" | "),
                "|---".repeat(stacks.len())
            )
            .expect("a string takes it");
            for (types, cells) in self.rows(distribution) {
                writeln!(page, "| {} | {} |", self.names(&types), cells.join(" | ")).expect("a string takes it");
            }
        }
        page
    }
}

#[test]
fn the_page_that_is_reviewed() {
    let page = Matrix { catalog: catalog() }.page();
    assert!(page.lines().count() <= 1500, "{}", page.lines().count());
    for cell in page.lines().skip_while(|line| !line.starts_with("## Amazon")).filter(|line| line.starts_with("| ")) {
        let long = cell.split(" | ").skip(1).map(|cell| cell.trim_end_matches(" |")).find(|cell| cell.len() > WIDTH);
        assert!(long.is_none() || cell.starts_with("| type"), "{long:?}");
    }
    // A file of its own, because a .snap is not shown as a table; it is renewed by what renews the snapshots.
    let path = in_repository("snapshots/matrix.md");
    if std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always") {
        std::fs::write(&path, &page).expect("it can be written");
    }
    let reviewed = std::fs::read_to_string(&path).expect("it is there");
    assert!(reviewed == page, "snapshots/matrix.md is another page: renew it with INSTA_UPDATE=always, and review it");
}

fn asked(distribution: &str, stack: &str, instance_type: &InstanceType) -> Request {
    Request {
        instance_type: Some(instance_type.name.clone()),
        no_gpu: instance_type.gpu.is_none(),
        ..request(distribution, stack)
    }
}

/// The flags that a hint says work, as a request.
fn from_flags(flags: &str) -> Request {
    let mut wanted = Request::default();
    let mut words = flags.split_whitespace();
    while let Some(flag) = words.next() {
        if flag == "--no-gpu" {
            wanted.no_gpu = true;
            continue;
        }
        let value = words.next().expect("the flag has a value").to_owned();
        match flag {
            "--distro" => wanted.distribution = value,
            "--stack" => wanted.stack = Some(value),
            "--efa" => wanted.efa = Some(value),
            "--instance-type" => wanted.instance_type = Some(value),
            other => panic!("the hint names {other}"),
        }
    }
    wanted
}

/// One type of each row: the planner accepts what the page accepts, and refuses by the rule that the page names, with the
/// nearest combination, which it accepts.
#[test]
fn the_planner_does_what_the_page_says() {
    let matrix = Matrix { catalog: catalog() };
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for distribution in &matrix.catalog.distributions {
        for (types, cells) in matrix.rows(distribution) {
            for (stack, cell) in matrix.catalog.pins.stack.iter().zip(&cells) {
                let (name, of) = (&types[0].name, &distribution.id);
                let outcome = plan::plan(&matrix.catalog, &asked(of, &stack.id, types[0]));
                let Some(rule) = cell.strip_prefix('-') else {
                    match outcome {
                        Ok(plan) => assert!(plan.allowed.is_empty(), "{of} {} {name}", stack.id),
                        Err(error) => assert!(error.to_string().contains("no published SHA-256"), "{error}"),
                    }
                    continue;
                };
                let error = outcome.expect_err("the page refuses it");
                assert_eq!(error.class(), Class::Plan, "{of} {} {name}", stack.id);
                assert!(error.to_string().contains(&format!("[rule {rule}]")), "{of} {} {name}: {error}", stack.id);
                let known = RULES.iter().find(|known| known.id == rule).expect("it is a rule");
                *seen.entry(known.id).or_default() += 1;
                let hint = error.hint_text().expect("it says what to do");
                if let Some(flags) = hint.split("this works: ").nth(1) {
                    let flags = flags.split(';').next().unwrap_or_default();
                    let nearest = plan::plan(&matrix.catalog, &from_flags(flags));
                    assert!(nearest.is_ok(), "{of} {} {name}: {flags}: {nearest:?}", stack.id);
                } else {
                    assert!(hint.contains("no combination that efa-gen knows works"), "{hint}");
                    assert!(["machine", "imex"].contains(&known.id), "{of} {} {name}: {hint}", stack.id);
                }
            }
        }
    }
    let never: Vec<&str> = RULES.iter().map(|rule| rule.id).filter(|id| !seen.contains_key(id)).collect();
    assert_eq!(never, NEVER_FIRST, "{seen:?}");
}

/// Rules that are nowhere the first to fail among the stacks that efa-gen carries; the tests below break each.
const NEVER_FIRST: [&str; 8] =
    ["imex", "gpu", "nvlsm", "driver-kernel", "cuda-driver", "nccl-gcc", "efa-plugin", "nccl-plugin"];

/// A rule that holds for every stack of ours, broken by a stack file of a user's own.
#[test]
fn a_stack_of_ones_own_is_held_to_the_same_rules() {
    let with = |parts: &str, stack: &str| {
        let text = format!("{parts}\n[[stack]]\nid = \"ours\"\ntitle = \"Ours\"\n{stack}\n");
        let catalog = catalog().with_stacks("ours.toml", &text).expect("it is well-formed");
        let request = Request { instance_type: Some("p5.48xlarge".into()), ..request("ubuntu24", "ours") };
        plan::plan(&catalog, &request).map(|plan| plan.notes).map_err(|error| error.to_string())
    };
    let stack = |efa: &str, cuda: &str, driver: &str, nccl: &str, plugin: &str| {
        format!(
            "efa = \"{efa}\"\ncuda = \"{cuda}\"\ndriver = \"{driver}\"\nnccl = \"{nccl}\"\nplugin = \"{plugin}\"\nnccl_tests = \"2.18.5\""
        )
    };
    let good = with("", &stack("1.50.0", "13.0.2", "580.178.04", "2.30.7-1", "1.21.1"));
    assert!(good.is_ok(), "{good:?}");
    let cases = [
        (stack("1.50.0", "13.0.2", "535.129.03", "2.30.7-1", "1.21.1"), "cuda-driver"),
        (stack("1.50.0", "12.2.2", "580.178.04", "2.30.7-1", "1.21.1"), "cuda-gcc"),
        (stack("1.49.0", "13.0.2", "580.178.04", "2.30.7-1", "1.21.1"), "efa-plugin"),
        (stack("1.50.0", "13.0.2", "580.178.04", "2.8.4-1", "1.21.1"), "nccl-plugin"),
        (stack("1.43.0", "13.0.2", "580.178.04", "2.30.7-1", "1.7.4"), "driver-efa"),
        (stack("1.29.0", "13.0.2", "580.178.04", "2.30.7-1", "1.7.4"), "efa-distribution"),
        (stack("1.50.0", "13.0.2", "520.61.05", "2.30.7-1", "1.21.1"), "gpu-modules"),
        (stack("1.50.0", "11.0.3", "580.178.04", "2.30.7-1", "1.21.1"), "cuda-gpu"),
    ];
    for (text, rule) in cases {
        let refused = with("", &text).expect_err(rule);
        assert!(refused.contains(&format!("[rule {rule}]")), "{rule}: {refused}");
    }
    let refused = |distribution: &str, stack: &str, instance_type: &str| {
        let request = Request { instance_type: Some(instance_type.into()), ..request(distribution, stack) };
        plan::plan(&catalog(), &request).expect_err("it is refused").to_string()
    };
    assert!(refused("ubuntu24", "cuda-13.0", "p6e-gb200.36xlarge").contains("[rule imex]"));
    assert!(refused("ubuntu24", "cuda-13.0", "c7i.48xlarge").starts_with("c7i.48xlarge has no NVIDIA GPU [rule gpu]"));
    assert!(
        refused("centos7", "cuda-13.0", "p5.48xlarge").contains("NCCL 2.30.7-1 needs gcc 7, and CentOS 7 has 4.8.5")
    );
    let driver =
        "[[driver]]\nversion = \"580.999.01\"\n[driver.download]\nurl = \"https://mirror.example/driver.run\"\n";
    let driver = format!("{driver}sha256 = \"{}\"\npublished = \"us\"\n", "ab".repeat(32));
    let refused =
        with(&driver, &stack("1.50.0", "13.0.2", "580.999.01", "2.30.7-1", "1.21.1")).expect_err("no archive");
    assert!(refused.contains("no fabric manager 580.999.01 is pinned [rule fabric-manager]"), "{refused}");
    assert!(!refused.contains("[rule nvlsm]"), "its NVLink is of the fourth generation: {refused}");
}

#[test]
fn a_rule_is_allowed_by_its_name_and_the_plan_says_so() {
    let catalog = catalog();
    let asked = |allow: &[&str]| Request {
        instance_type: Some("hpc7a.96xlarge".into()),
        no_gpu: true,
        allow: allow.iter().map(|rule| (*rule).to_owned()).collect(),
        ..request("al1", "guide")
    };
    let outcome =
        |allow: &[&str]| plan::plan(&catalog, &asked(allow)).map_err(|error| (error.class(), error.to_string()));
    let plan = outcome(&["efa-device"]).expect("it is allowed");
    assert_eq!(plan.allowed, ["efa-device"]);
    assert!(
        plan.notes.iter().any(|note| note.starts_with("Allowed by you, against rule efa-device: EFA installer 1.9.5"))
    );
    let tags = plan::tags::of_plan(&plan, "digest");
    assert!(tags.contains(&(plan::tags::ALLOWED, "efa-device".to_owned())), "{tags:?}");

    let cases: [(&[&str], Class, &str); 5] = [
        (&[], Class::Plan, "[rule efa-device]"),
        (&["efa-plugin"], Class::Usage, "`--allow efa-plugin` has no effect"),
        (&["efa-device", "cuda-gcc"], Class::Usage, "`--allow cuda-gcc` has no effect"),
        (&["machine"], Class::Usage, "rule `machine` can't be allowed"),
        (&["efa-devices"], Class::Usage, "there is no compatibility rule `efa-devices`"),
    ];
    for (allow, class, words) in cases {
        let (is, message) = outcome(allow).expect_err(words);
        assert!(is == class && message.contains(words), "{allow:?}: {message}");
    }
}

/// Cells that stand for what people run.
#[test]
fn cells_that_were_wrong_are_right() {
    let matrix = Matrix { catalog: catalog() };
    let cell = |distribution: &str, stack: &str, instance_type: &str| {
        let distribution = matrix.catalog.distribution(distribution).expect("it is known");
        matrix.cell(distribution, stack, matrix.catalog.instance_type(instance_type).expect("it is known"))
    };
    for distribution in ["al2", "centos7", "rhel7.6", "rhel7.8"] {
        let stack = if distribution == "al2" { "cuda-12.2-efa-1.49" } else { "cuda-12.2" };
        for (instance_type, wanted) in [
            ("p3dn.24xlarge", "535/proprietary/none"),
            ("p4d.24xlarge", "535/open/nvswitch"),
            ("p5.4xlarge", "535/open/none"),
            ("p5.48xlarge", "535/open/nvswitch"),
            ("p5e.48xlarge", "-gpu-driver"),
            ("p6-b200.48xlarge", "-cuda-gpu"),
            ("g4dn.12xlarge", "535/proprietary/none"),
            ("g5.48xlarge", "535/open/none"),
            ("g6e.48xlarge", "535/open/none"),
            ("g7e.48xlarge", "-cuda-gpu"),
            ("c7gn.16xlarge", "-machine"),
        ] {
            let is = cell(distribution, stack, instance_type);
            assert!(
                is == wanted || wanted.starts_with('-') && is.starts_with('-'),
                "{distribution} {instance_type}: {is}"
            );
        }
    }
    for (distribution, stack, instance_type, wanted) in [
        ("ubuntu18", "cuda-11.8", "g6.48xlarge", "-gpu-driver"),
        ("ubuntu18", "cuda-11.8", "g6e.48xlarge", "-gpu-driver"),
        ("ubuntu18", "cuda-11.8", "p4d.24xlarge", "520/open/nvswitch"),
        ("ubuntu24", "cuda-13.0", "p6-b200.48xlarge", "580/open/nvlink5"),
        ("ubuntu24", "cuda-13.2", "p6-b300.48xlarge", "595/open/nvlink5"),
        ("debian12", "cuda-13.0", "p6-b300.48xlarge", "580/open/nvlink5"),
        ("ubuntu24", "cuda-12.9", "p3dn.24xlarge", "580/proprietary/none"),
        ("ubuntu24", "cuda-13.2", "p3dn.24xlarge", "-cuda-gpu"),
        ("ubuntu24", "cuda-13.0", "p6e-gb200.36xlarge", "-machine"),
        ("al1", "guide", "hpc7a.96xlarge", "-efa-device"),
        ("ubuntu16", "cuda-11.0", "hpc7a.96xlarge", "-efa-device"),
        ("al2", "cuda-12.2-efa-1.49", "hpc7a.96xlarge", "efa 1.49.0"),
        ("al1", "guide", "c5n.18xlarge", "efa 1.9.5"),
        ("al1", "guide", "trn1.32xlarge", "-efa-device"),
        ("al2", "guide", "p4d.24xlarge", "-cuda-gpu"),
        ("al2", "cuda-11.8", "p4d.24xlarge", "-driver-efa"),
    ] {
        assert_eq!(cell(distribution, stack, instance_type), wanted, "{distribution} {stack} {instance_type}");
    }
}
