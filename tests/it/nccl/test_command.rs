//! The command of an NCCL test: its words, its environment by generation, what a hostfile may say.

use std::process::Command;
use std::time::Duration;

use crate::support::{catalog, stderr, stdout};
use efa_gen::catalog::nccl_env::{self, Software};
use efa_gen::guest::release;
use efa_gen::nccl::command::{self, Collective, Host, Programs, Sizes};
use efa_gen::plan::{self, Request};
use efa_gen::shell;

/// Variables that hurt, or that are the plugin's to set, with whom they hurt: facts of `environment.toml`'s sources.
const NEVER: [&str; 11] = [
    "NCCL_TREE_THRESHOLD",
    "NCCL_TOPO_FILE",
    "NCCL_TUNER_PLUGIN",
    "NCCL_BUFFSIZE",
    "NCCL_P2P_NET_CHUNKSIZE",
    "NCCL_NET_GDR_LEVEL",
    "NCCL_NET_PLUGIN",
    "RDMAV_FORK_SAFE",
    "FI_EFA_FORK_SAFE",
    "FI_EFA_USE_HUGE_PAGE",
    "NCCL_IB_DISABLE",
];

fn software(efa: &str, nccl: &str, plugin: &str, gpudirect: bool) -> Software {
    let known = |version: &str| (!version.is_empty()).then(|| version.to_owned());
    Software { efa: known(efa), nccl: known(nccl), plugin: known(plugin), gpudirect }
}

fn names_and_values(software: &Software) -> Vec<String> {
    let of = nccl_env::of(&catalog().environment, software);
    of.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

const ALWAYS: [&str; 3] = ["NCCL_ALGO=Ring", "NCCL_SOCKET_IFNAME=^lo,docker,virbr,br-,cni", "NCCL_DEBUG=INFO"];

#[test]
fn each_generation_gets_what_it_needs() {
    fn with(first: &[&'static str], last: &[&'static str]) -> Vec<&'static str> {
        [first, &ALWAYS, last].concat()
    }
    let old = ["FI_PROVIDER=efa", "FI_EFA_ENABLE_SHM_TRANSFER=0"];
    let [aws, plain] = ["NCCL_NET=AWS Libfabric", "NCCL_NET=Libfabric"];
    let rdma = "FI_EFA_USE_DEVICE_RDMA=1";
    let cases = [
        (
            software("1.9.5", "2.7.8-1", "1.1.0", false),
            with(&[old[0], "FI_EFA_TX_MIN_CREDITS=64", old[1], "NCCL_PROTO=simple", aws], &[]),
        ),
        (software("1.11.2", "2.8.4-1", "1.1.3", false), with(&[old[0], old[1], "NCCL_PROTO=simple", aws], &[])),
        (software("1.22.1", "2.18.6-1", "1.5.0", true), with(&[old[0], old[1], "NCCL_PROTO=simple", aws], &[rdma])),
        (software("1.24.0", "2.18.6-1", "1.6.0", true), with(&[old[0], old[1], aws], &[rdma])),
        (software("1.30.0", "2.18.6-1", "1.7.4", true), with(&[aws], &[])),
        (software("1.29.0", "2.19.3-1", "1.7.4", true), with(&["FI_EFA_SET_CUDA_SYNC_MEMOPS=0", aws], &[])),
        (software("1.29.1", "2.19.3-1", "1.7.4", true), with(&[aws], &[])),
        (software("1.38.0", "2.24.3-1", "1.12.1", true), with(&[aws], &[])),
        (software("1.40.0", "2.24.3-1", "1.13.0", true), with(&[plain], &[])),
        (software("1.50.0", "2.30.4-1", "1.21.1", true), with(&[plain], &[])),
        // What is not known is neither old nor new; every plugin knows the older spelling.
        (Software::default(), with(&[aws], &[])),
        (software("", "", "", true), with(&[aws], &[])),
        (software("1.50.0", "2.30.4-1", "", true), with(&[aws], &[])),
    ];
    for (software, wanted) in cases {
        assert_eq!(names_and_values(&software), wanted, "{software:?}");
    }
}

#[test]
fn nothing_is_set_that_hurts() {
    let catalog = catalog();
    for variable in &catalog.environment {
        assert!(!NEVER.contains(&variable.name.as_str()), "{}", variable.name);
    }
    let versions = |pins: Vec<&String>| pins.into_iter().cloned().chain([String::new()]).collect::<Vec<_>>();
    let plugins = versions(catalog.pins.plugin.iter().map(|plugin| &plugin.version).collect());
    let nccls = versions(catalog.pins.nccl.iter().map(|nccl| &nccl.version).collect());
    for (plugin, nccl) in plugins.iter().flat_map(|plugin| nccls.iter().map(move |nccl| (plugin, nccl))) {
        for (efa, gpudirect) in [("1.9.5", false), ("1.30.0", true), ("1.50.0", true), ("1.50.0", false), ("", true)] {
            let set = names_and_values(&software(efa, nccl, plugin, gpudirect));
            let has = |name: &str| set.iter().any(|one| one.starts_with(&format!("{name}=")));
            let modern = plugin.is_empty() || !["1.1.0", "1.1.3", "1.5.0"].contains(&plugin.as_str());
            let old_only = ["NCCL_PROTO", "FI_PROVIDER", "FI_EFA_USE_DEVICE_RDMA", "FI_EFA_TX_MIN_CREDITS"];
            assert!(!modern || !old_only.into_iter().any(has), "plugin {plugin}: {set:?}");
            // libfabric aborts on a device that can't.
            assert!(gpudirect || !has("FI_EFA_USE_DEVICE_RDMA"), "{set:?}");
            // A missing plugin is an error, and the log tells what it must, whatever runs.
            assert!(["NCCL_NET", "NCCL_ALGO", "NCCL_DEBUG"].into_iter().all(has), "{set:?}");
            let names: std::collections::BTreeSet<_> = set.iter().filter_map(|one| one.split('=').next()).collect();
            assert_eq!(names.len(), set.len(), "no name twice: {set:?}");
        }
    }
}

/// What a rendered script's own test sets is what `efa-gen validate` sets on the machine that it made.
#[test]
fn a_plan_and_its_release_file_agree() {
    let catalog = catalog();
    for (distribution, stack, instance_type) in [
        ("ubuntu18", "guide", "p3dn.24xlarge"),
        ("ubuntu18", "newest", "p4d.24xlarge"),
        ("centos7", "newest", "p5.48xlarge"),
        ("al2", "newest", "p4d.24xlarge"),
        ("ubuntu24", "newest", "p5.48xlarge"),
    ] {
        let request = Request {
            instance_type: Some(instance_type.into()),
            test: true,
            ..crate::support::request(distribution, stack)
        };
        let plan = plan::plan(&catalog, &request).expect("it can be planned");
        let actions = plan.stages.iter().flat_map(|stage| &stage.steps).flat_map(|step| &step.actions);
        let (mut release, mut set) = (None, None);
        for action in actions {
            match action {
                plan::Action::WriteFile { path, content, .. } if path == plan::RELEASE_FILE => release = Some(content),
                plan::Action::NcclTest { argv, .. } => {
                    set = Some(argv.iter().map(ToString::to_string).collect::<Vec<_>>());
                }
                _ => {}
            }
        }
        let mut software = release::software(release.expect("it is written")).expect("it can be read");
        software.gpudirect = catalog.instance_type(instance_type).expect("it is known").gpudirect;
        let set = set.expect("the test is planned");
        let own = set.iter().zip(set.iter().skip(1)).filter(|(flag, _)| *flag == "-x").map(|(_, value)| value.clone());
        let own: Vec<String> = own.filter(|value| !value.starts_with("LD_LIBRARY_PATH=")).collect();
        assert_eq!(names_and_values(&software), own, "{distribution}");
    }
    for damaged in ["", "{}", "[]", "[1", "efa 1.9.5"] {
        assert_eq!(release::software(damaged), None, "{damaged}");
    }
}

fn programs() -> Programs {
    Programs {
        mpirun: Programs::installed_mpirun(),
        tests: Programs::installed_tests(),
        environment: vec![("NCCL_NET".into(), "AWS Libfabric".into()), ("ODD".into(), "it's $HOME".into())],
        mca: Vec::new(),
    }
}

fn hosts(count: usize) -> Vec<Host> {
    (0..count).map(|at| Host { address: format!("10.0.0.{at}"), slots: 4 }).collect()
}

#[test]
fn the_words_of_a_run() {
    let sizes = Sizes { min: 8, max: 1 << 30, iterations: 20 };
    let argv = command::argv(Collective::AllToAll, &hosts(3), sizes, &programs());
    assert_eq!(
        shell::join(&argv).expect("it can be quoted"),
        "/opt/amazon/openmpi/bin/mpirun --allow-run-as-root --host 10.0.0.0:4,10.0.0.1:4,10.0.0.2:4 -n 12 -N 4 \
         --mca pml '^cm' --mca btl tcp,self --mca btl_tcp_if_exclude lo,docker0 --bind-to none \
         -x 'NCCL_NET=AWS Libfabric' -x \"ODD=it's \"'$HOME' \
         /opt/nccl-tests/build/alltoall_perf -b 8 -e 1073741824 -f 2 -g 1 -c 1 -n 20"
    );
}

/// The line in a shell: the words arrive as they are, the exit status is told, standard input holds it.
#[test]
fn the_line_of_a_run() {
    let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for shell in ["sh", "bash"] {
        for (words, limit, out, status) in [
            (&["printf", "%s|", "it's", "$HOME", "a b", "\\n", "", "*"][..], 20, "it's|$HOME|a b|\\n||*|", 0),
            (&["sh", "-c", "echo out; echo err >&2; exit 7"], 20, "out\nerr\n", 7),
            (&["cat"], 20, "", 0),
            (&["sleep", "30"], 1, "", 124),
            (&["/no/such/program"], 20, "timeout: ", 127),
        ] {
            let line = command::line(&argv(words), Duration::from_secs(limit)).expect("it can be quoted");
            let mut child = Command::new(shell);
            child.args(["-c", &line]).stdin(std::process::Stdio::piped());
            let mut child = child
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("it starts");
            let held = child.stdin.take();
            let output = child.wait_with_output().expect("it ends");
            drop(held);
            assert!(
                stdout(&output).starts_with(out) && (out.is_empty() == stdout(&output).is_empty()),
                "{words:?}: {output:?}"
            );
            let told: Vec<i32> = stderr(&output).lines().filter_map(command::exit_status).collect();
            assert_eq!(told, [status], "{words:?}: {}", stderr(&output));
        }
        // Nobody holds it: it is ended at once.
        let line = command::line(&argv(&["sleep", "30"]), Duration::from_secs(20)).expect("it can be quoted");
        let output = Command::new(shell).args(["-c", &line]).output().expect("it starts");
        assert_eq!(stderr(&output).lines().find_map(command::exit_status), Some(143), "{}", stderr(&output));
    }
    for no in ["EFA-GEN EXIT", "EFA-GEN EXIT x", " EFA-GEN EXIT 0", "EFA-GEN EXIT 0 1"] {
        assert_eq!(command::exit_status(no), None, "{no}");
    }
}

#[test]
fn libraries_of_a_machine_that_is_not_ours() {
    let path =
        |own: &str, mpirun: &str| command::library_path(own, mpirun).split(':').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(path("/a::/b", "/x/openmpi/bin/mpirun")[..4], ["/a", "/b", "/x/openmpi/lib", "/x/openmpi/lib64"]);
    for mpirun in ["mpirun", "/usr/bin/mpirun", "/bin/mpirun", "./mpirun"] {
        let folders = path("", mpirun);
        assert_eq!(folders[0], "/opt/amazon/efa/lib", "{mpirun}");
        // An empty one would be the current folder.
        assert!(folders.iter().all(|folder| folder.starts_with('/')), "{folders:?}");
    }
}

#[test]
fn sizes_are_read_as_nccl_tests_reads_them() {
    let cases = [("8", Some(8)), ("512K", Some(512 << 10)), ("8m", Some(8 << 20)), ("1G", Some(1 << 30))];
    let wrong = ["", "G", "0", "0K", "-1", "+1", "1.5G", "1T", "1GB", " 1", "18446744073709551616", "99999999999999G"];
    for (text, bytes) in cases.into_iter().chain(wrong.map(|text| (text, None))) {
        assert_eq!(command::parse_size(text), bytes, "{text}");
    }
}

/// Open MPI refuses to be told of interfaces in both ways, and takes the first of two values.
#[test]
fn a_parameter_of_ones_own_is_instead_of_the_tests() {
    let with = |mca: &[(&str, &str)]| {
        let mca = mca.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let argv = command::argv(Collective::AllReduce, &hosts(2), command::CHECK, &Programs { mca, ..programs() });
        argv.join(" ")
    };
    let plain = with(&[]);
    assert!(
        plain.contains("--mca pml ^cm --mca btl tcp,self --mca btl_tcp_if_exclude lo,docker0 --bind-to none"),
        "{plain}"
    );
    let include = with(&[("btl_tcp_if_include", "10.0.0.0/16")]);
    assert!(include.contains("--mca btl_tcp_if_include 10.0.0.0/16") && !include.contains("if_exclude"), "{include}");
    let other = with(&[("pml", "ob1"), ("oob_tcp_if_include", "eth0")]);
    assert!(other.contains("--mca pml ob1 --mca oob_tcp_if_include eth0") && !other.contains("^cm"), "{other}");
    assert!(other.contains("btl_tcp_if_exclude lo,docker0"), "{other}");
}

#[test]
fn a_variable_of_ones_own_is_a_name_and_a_value() {
    assert_eq!(command::variable("NCCL_ALGO=Tree").expect("it is one"), ("NCCL_ALGO".to_owned(), "Tree".to_owned()));
    assert_eq!(command::variable("A=b=c d").expect("it is one").1, "b=c d");
    assert!(command::variable("NCCL_DEBUG=INFO").is_ok());
    for wrong in ["", "A", "=b", "1A=b", "A B=c", "A=b\nc", "NCCL_DEBUG=WARN", "NCCL_DEBUG="] {
        assert!(command::variable(wrong).is_err(), "{wrong}");
    }
}
