//! The checks of GPUs, their fabric and EFA, each on a machine on which it holds and on those on which it must not.

use crate::support::sandbox::Sandbox;
use crate::support::{catalog, request};
use efa_gen::plan::{self, Action, Assertion, Request};

/// Exit code of a check that does not hold.
const WRONG: Option<i32> = Some(7);

fn check(sandbox: &Sandbox, check: Assertion) -> (Option<i32>, String) {
    sandbox.run_actions(vec![Action::Assert(check)])
}

fn holds(sandbox: &Sandbox, wanted: Assertion, words: &str) {
    let (code, said) = check(sandbox, wanted);
    let log = sandbox.read("log/install.log");
    assert!(code == Some(0) && log.contains(words), "{words}: {said}\n{log}");
}

fn fails(sandbox: &Sandbox, wanted: Assertion, words: &str) {
    let (code, said) = check(sandbox, wanted);
    assert_eq!(code, WRONG, "{words}: {said}");
    let reason = said.lines().find(|line| line.trim_start().starts_with("reason: ")).unwrap_or_default();
    assert!(reason.contains(words), "{words}: {said}");
}

fn with_gpus(count: u32) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("gpus", &count.to_string());
    sandbox.program("sleep", "exit 0");
    sandbox
}

#[test]
fn the_module_is_the_plan_s_by_its_file_and_by_what_is_loaded() {
    let flavour =
        |flavour: &str, license: &str| Assertion::ModuleFlavour { flavour: flavour.into(), license: license.into() };
    let (open, closed) = (flavour("open", "Dual MIT/GPL"), flavour("proprietary", "NVIDIA"));
    let sandbox = Sandbox::new();
    let file = |license: &str| sandbox.program("modinfo", license);
    let none = "echo 'modinfo: ERROR: Module nvidia not found.' >&2; exit 1";
    file("echo 'Dual MIT/GPL'");
    holds(&sandbox, open.clone(), "");
    fails(&sandbox, closed.clone(), "license is \"Dual MIT/GPL\", must be \"NVIDIA\"");
    file("echo NVIDIA");
    holds(&sandbox, closed.clone(), "");
    fails(&sandbox, open.clone(), "license is \"NVIDIA\", must be \"Dual MIT/GPL\"");
    file(none);
    fails(&sandbox, open.clone(), "has no nvidia module, and none is loaded");

    // As a machine with an H200 says it, where the file is not to be had.
    sandbox.write(
        "nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (root@host)\nGCC version:  13.3.0\n",
    );
    holds(&sandbox, open.clone(), "");
    fails(&sandbox, closed.clone(), "the loaded nvidia module is open, must be proprietary");
    sandbox.write(
        "nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n",
    );
    holds(&sandbox, closed, "");
    fails(&sandbox, open.clone(), "the loaded nvidia module is proprietary, must be open");
    // The file of the next boot is right, what runs is not.
    file("echo 'Dual MIT/GPL'");
    fails(&sandbox, open, "the loaded nvidia module is proprietary, must be open");
}

#[test]
fn a_package_with_another_driver_is_named() {
    let sandbox = Sandbox::new();
    let query = |line: &str| Assertion::NoPackages { query: ["sh", "-c", line].map(str::to_owned).to_vec() };
    holds(&sandbox, query("true"), "");
    fails(
        &sandbox,
        query("echo nvidia-driver-535-server; echo libnvidia-compute-535-server"),
        "packages bring another NVIDIA driver: nvidia-driver-535-server libnvidia-compute-535-server",
    );
    fails(&sandbox, query("exit 3"), "exit status 3");
}

#[test]
fn the_persistence_daemon_runs_and_every_gpu_is_in_its_mode() {
    let wanted = || Assertion::Persistence { active: ["systemctl", "is-active", "it"].map(str::to_owned).to_vec() };
    holds(&with_gpus(0), wanted(), "no NVIDIA GPU on this machine");
    let sandbox = with_gpus(2);
    sandbox.program("nvidia-smi", "printf 'Enabled\\nEnabled\\n'");
    holds(&sandbox, wanted(), "");
    for (smi, words) in [
        ("printf 'Enabled\\nDisabled\\n'", "2 GPUs, but nvidia-smi says: Enabled"),
        ("echo Enabled", "2 GPUs, but nvidia-smi says: Enabled"),
        ("echo No devices were found; exit 6", "No devices were found"),
    ] {
        sandbox.program("nvidia-smi", smi);
        fails(&sandbox, wanted(), words);
    }
    sandbox.program("nvidia-smi", "printf 'Enabled\\nEnabled\\n'");
    sandbox.program("systemctl", "[ $1 != is-active ] || exit 3");
    fails(&sandbox, wanted(), "nvidia-persistenced does not run");
    // It began at the same boot.
    sandbox.program("systemctl", &format!("[ $1 != is-active ] || test -e {}", sandbox.text("up")));
    sandbox.program("sleep", &format!("touch {}", sandbox.text("up")));
    holds(&sandbox, wanted(), "waiting for the persistence daemon: nvidia-persistenced does not run");
}

/// `nvidia-smi -q` as far as it matters, in the form of driver 580.159.04.
fn smi(states: &[(&str, &str)]) -> String {
    let mut text = String::from("\n==============NVSMI LOG==============\n\n");
    for (index, (state, status)) in states.iter().enumerate() {
        text += &format!(
            "GPU 00000000:{index:02}:00.0\n    Persistence Mode                                   : Enabled\n    \
             Platform Info\n        GPU Fabric GUID                                : N/A\n    \
             Fabric\n        State                                          : {state}\n        \
             Status                                         : {status}\n        \
             CliqueId                                       : 0\n        Health\n            \
             Summary                                    : N/A\n    Processes                                          : None\n        \
             State                                          : other\n        Status : other\n"
        );
    }
    text
}

fn fabric() -> Assertion {
    Assertion::Fabric { nvlink5: vec!["0x2901".into(), "0x3182".into()] }
}

fn says(sandbox: &Sandbox, states: &[(&str, &str)]) {
    sandbox.write("smi", &smi(states));
    sandbox.program("nvidia-smi", &format!("cat {}", sandbox.text("smi")));
}

const GOOD: (&str, &str) = ("Completed", "Success");
const NONE: (&str, &str) = ("N/A", "N/A");

#[test]
fn gpus_behind_nvswitches_are_registered_with_their_fabric() {
    // An H200 without NVSwitches, and one GPU of a type that has none.
    let alone = with_gpus(1);
    alone.pci("6", "0x10de", "0x2335", "0x030200");
    says(&alone, &[NONE]);
    holds(&alone, fabric(), "no NVSwitch on this machine");

    let hopper = with_gpus(2);
    hopper.pci("1", "0x10de", "0x22a3", "0x068000");
    let blackwell = with_gpus(2);
    ["a", "b"].iter().for_each(|slot| blackwell.pci(slot, "0x10de", "0x2901", "0x030200"));
    for sandbox in [&hopper, &blackwell] {
        says(sandbox, &[GOOD, GOOD]);
        holds(sandbox, fabric(), "");
        for (states, words) in [
            (
                &[GOOD, ("In Progress", "N/A")][..],
                "of 2 GPUs not all are registered with the fabric; nvidia-smi -q says: In Progress, N/A",
            ),
            (&[("Completed", "Insufficient Resources"), GOOD], "says: Completed, Insufficient Resources"),
            (&[NONE, NONE], "says: N/A, N/A; N/A, N/A"),
            (&[GOOD], "says: nothing of a fabric"),
            (&[], "not all are registered"),
        ] {
            says(sandbox, states);
            fails(sandbox, fabric(), words);
        }
        sandbox.program("nvidia-smi", "echo Unable to determine the device handle; exit 255");
        fails(sandbox, fabric(), "nvidia-smi -q failed: Unable to determine");
        says(sandbox, &[GOOD, GOOD]);
        sandbox.program("systemctl", "[ $1 != is-active ] || exit 3");
        fails(sandbox, fabric(), "the fabric manager does not run");
    }
}

#[test]
fn an_a100_does_not_register_but_its_fabric_manager_runs() {
    let sandbox = with_gpus(2);
    sandbox.pci("1", "0x10de", "0x1af1", "0x068000");
    for states in [&[NONE, NONE][..], &[GOOD, GOOD], &[]] {
        says(&sandbox, states);
        holds(&sandbox, fabric(), "");
    }
    says(&sandbox, &[NONE, ("In Progress", "N/A")]);
    fails(&sandbox, fabric(), "says: In Progress, N/A");
    says(&sandbox, &[NONE, NONE]);
    sandbox.program("systemctl", "[ $1 != is-active ] || exit 3");
    fails(&sandbox, fabric(), "the fabric manager does not run");
}

#[test]
fn a_fabric_that_takes_its_time_is_waited_for() {
    let sandbox = with_gpus(1);
    sandbox.pci("1", "0x10de", "0x3182", "0x030200");
    says(&sandbox, &[("In Progress", "N/A")]);
    let (smi, good) = (sandbox.text("smi"), sandbox.text("good"));
    sandbox.write("good", &self::smi(&[GOOD]));
    sandbox.program("sleep", &format!("cp {good} {smi}"));
    holds(&sandbox, fabric(), "waiting for the fabric: of 1 GPUs not all are registered");
}

#[test]
fn a_cuda_context_can_be_made_on_every_gpu() {
    let program = |sandbox: &Sandbox| Assertion::CudaContexts { program: sandbox.text("bin/contexts") };
    let none = with_gpus(0);
    fails(&none, program(&none), "contexts can't be run");
    none.program("contexts", "exit 1");
    holds(&none, program(&none), "no NVIDIA GPU on this machine, so nothing to check");
    let sandbox = with_gpus(2);
    let line = |gpu: u32| format!("echo 'GPU {gpu} 0000:0{gpu}:00.0: context on NVIDIA B200'");
    sandbox.program("contexts", &format!("{}; {}", line(0), line(1)));
    holds(&sandbox, program(&sandbox), "GPU 1 0000:01:00.0: context on NVIDIA B200");
    let not_ready =
        "echo 'cudaGetDeviceCount failed: cudaErrorSystemNotReady (error 802): system not yet initialized'; exit 1";
    let of_one = "echo 'GPU 1 0000:01:00.0: cudaMalloc failed: cudaErrorECCUncorrectable (error 214): uncorrectable ECC error'; exit 1";
    for (body, words) in [
        (not_ready.to_owned(), "exit status 1: cudaGetDeviceCount failed: cudaErrorSystemNotReady (error 802)"),
        (format!("{}; {of_one}", line(0)), "exit status 1: GPU 1 0000:01:00.0: cudaMalloc failed"),
        (line(0), "2 GPUs, but CUDA says: GPU 0"),
        ("exit 0".into(), "2 GPUs, but CUDA says: "),
        ("kill -9 $$".into(), "exit status 137"),
    ] {
        sandbox.program("contexts", &body);
        fails(&sandbox, program(&sandbox), words);
    }
}

#[test]
fn the_efa_module_names_nvidia_s_driver_for_gpu_memory() {
    let wanted = || Assertion::PeerToPeer;
    holds(&with_gpus(0), wanted(), "no NVIDIA GPU on this machine");
    let bare = with_gpus(8);
    holds(&bare, wanted(), "no EFA device on this machine");
    // Not EFA's.
    bare.write("infiniband/mlx5_0/device/vendor", "0x15b3\n");
    bare.write("infiniband/mlx5_0/device/p2p", "\n");
    holds(&bare, wanted(), "no EFA device on this machine");
    // EFA's, by a module that is not the installer's.
    bare.write("infiniband/efa_0/device/vendor", "0x1d0f\n");
    fails(&bare, wanted(), "is it the EFA installer's?");
    for (file, value, good) in [
        ("p2p", "NVIDIA", true),
        ("p2p", "NVIDIA peermem", true),
        ("gdr", "1", true),
        ("p2p", "", false),
        ("p2p", "NEURON", false),
        ("p2p", "NA", false),
        ("gdr", "0", false),
    ] {
        let sandbox = with_gpus(8);
        for (device, value) in [("rdmap0s6", if file == "p2p" { "NVIDIA" } else { "1" }), ("rdmap1s6", value)] {
            sandbox.write(&format!("infiniband/{device}/device/vendor"), "0x1d0f\n");
            sandbox.write(&format!("infiniband/{device}/device/{file}"), &format!("{value}\n"));
        }
        if good {
            holds(&sandbox, wanted(), "");
        } else {
            fails(&sandbox, wanted(), &format!("EFA's way to GPU memory is \"{value}\", must be NVIDIA"));
        }
    }
}

#[test]
fn huge_pages_are_enough_for_efa() {
    let sandbox = Sandbox::new();
    let wanted = || Assertion::HugePages { reserve: sandbox.text("reserve.sh") };
    let meminfo = |pages: u32, size: u32| {
        sandbox.write(
            "meminfo",
            &format!(
                "MemTotal: 8388608 kB\nHugePages_Total:    {pages}\nHugePages_Free: 0\nHugepagesize:    {size} kB\n"
            ),
        );
    };
    meminfo(0, 2048);
    holds(&sandbox, wanted(), "no EFA device on this machine");
    ["1", "2"].iter().for_each(|slot| sandbox.pci(slot, "0x1d0f", "0xefa2", "0x020000"));
    holds(&sandbox, wanted(), "0 huge pages of 2048 KiB are reserved");
    // Nothing is promised without what reserves them.
    sandbox.write("reserve.sh", "");
    for (pages, size, good) in
        [(5128, 2048, true), (110, 2048, true), (109, 2048, false), (0, 2048, false), (0, 524_288, true)]
    {
        meminfo(pages, size);
        if good {
            holds(&sandbox, wanted(), &format!("{pages} huge pages of {size} KiB are reserved"));
        } else {
            fails(
                &sandbox,
                wanted(),
                &format!("2 EFA devices take 110 MiB of huge pages each, and there are {pages} of"),
            );
        }
    }
}

#[test]
fn ranks_may_read_each_other_s_memory() {
    let sandbox = Sandbox::new();
    holds(&sandbox, Assertion::PtraceScope, "");
    sandbox.write("yama/ptrace_scope", "0\n");
    holds(&sandbox, Assertion::PtraceScope, "");
    for scope in ["1", "2", "3"] {
        sandbox.write("yama/ptrace_scope", &format!("{scope}\n"));
        fails(&sandbox, Assertion::PtraceScope, &format!("kernel.yama.ptrace_scope is {scope}, must be 0"));
    }
}

/// The program is as good as C, whose compiler is here. CUDA's own one is not: a stand-in for its header shows that the
/// program says what the check reads.
#[test]
fn the_program_for_cuda_contexts_says_what_the_check_reads() {
    let sandbox = with_gpus(2);
    sandbox.write("include/cuda_runtime.h", CUDA_RUNTIME);
    let built = std::process::Command::new("cc")
        .args(["-x", "c", "-std=c99", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(sandbox.path("include"))
        .arg("-o")
        .arg(sandbox.path("cuda-contexts"))
        .arg(crate::support::in_repository("templates/driver/cuda-contexts.cu"))
        .output()
        .expect("a C compiler");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let run = |fault: &str| {
        sandbox.program("contexts", &format!("FAULT={fault} exec {}", sandbox.text("cuda-contexts")));
        Assertion::CudaContexts { program: sandbox.text("bin/contexts") }
    };
    holds(&sandbox, run("none"), "GPU 1 0000:01:00.0: context on it");
    for (fault, words) in [
        ("count", "cudaGetDeviceCount failed: cudaErrorSystemNotReady (error 802)"),
        ("malloc", "GPU 1 0000:01:00.0: cudaMalloc failed: cudaErrorSystemNotReady (error 802)"),
        ("set", "GPU 0 0000:00:00.0: cudaSetDevice failed: cudaErrorSystemNotReady (error 802)"),
        ("one", "2 GPUs, but CUDA says: GPU 0 0000:00:00.0: context on it"),
    ] {
        fails(&sandbox, run(fault), words);
    }
}

const CUDA_RUNTIME: &str = r#"
#include <stdlib.h>
#include <string.h>
typedef enum { cudaSuccess = 0, cudaErrorSystemNotReady = 802 } cudaError_t;
static int current;
static int fault(const char *name) { return !strcmp(getenv("FAULT"), name); }
static cudaError_t fails(int bad) { return bad ? cudaErrorSystemNotReady : cudaSuccess; }
static const char *cudaGetErrorName(cudaError_t error) { return error ? "cudaErrorSystemNotReady" : "cudaSuccess"; }
static cudaError_t cudaGetDeviceCount(int *count) { *count = fault("one") ? 1 : 2; return fails(fault("count")); }
static cudaError_t cudaDeviceGetPCIBusId(char *to, int size, int gpu) {
  snprintf(to, size, "0000:%02d:00.0", gpu);
  return cudaSuccess;
}
static cudaError_t cudaSetDevice(int gpu) { current = gpu; return fails(fault("set")); }
static cudaError_t cudaMalloc(void **to, size_t size) { *to = malloc(size); return fails(current == 1 && fault("malloc")); }
"#;

#[test]
fn gdrcopy_s_own_tests_pass_on_its_device() {
    let wanted = |sandbox: &Sandbox| Assertion::Gdrcopy { program: sandbox.text("bin/gdrcopy_sanity") };
    holds(&with_gpus(0), wanted(&with_gpus(0)), "no NVIDIA GPU on this machine");
    let sandbox = with_gpus(1);
    let good = "echo 'Total: 28, Passed: 25, Failed: 0, Waived: 3'";
    sandbox.program("gdrcopy_sanity", good);
    fails(&sandbox, wanted(&sandbox), "GDRCopy's module is not loaded");
    sandbox.write("gdrdrv", "");
    fails(&sandbox, wanted(&sandbox), "GDRCopy's module is not loaded");
    std::fs::remove_file(sandbox.path("gdrdrv")).expect("it is there");
    std::os::unix::fs::symlink("/dev/null", sandbox.path("gdrdrv")).expect("a link");
    holds(&sandbox, wanted(&sandbox), "Passed: 25");
    for (body, words) in [
        (
            "echo 'Error: Encountered an error or a test failure with status=1' >&2; exit 1",
            "exit status 1: Error: Encountered",
        ),
        ("echo 'Total: 28, Passed: 0, Failed: 0, Waived: 28'", "none of its tests has passed"),
        ("exit 0", "none of its tests has passed"),
        ("kill -9 $$", "exit status 137"),
    ] {
        sandbox.program("gdrcopy_sanity", body);
        fails(&sandbox, wanted(&sandbox), words);
    }
    std::fs::remove_file(sandbox.path("bin/gdrcopy_sanity")).expect("it is there");
    fails(&sandbox, wanted(&sandbox), "exit status 127");
}

/// As systemd would start it: `$$` is a dollar.
#[test]
fn gdrcopy_s_unit_makes_the_device_of_the_module_s_number() {
    let wanted = Request { gdrcopy: true, ..request("ubuntu24", "newest") };
    let plan = plan::plan(&catalog(), &wanted).expect("it can be planned");
    let mut units = plan.stages.iter().flat_map(|stage| &stage.steps).flat_map(|step| &step.actions);
    let unit = units.find_map(|action| match action {
        Action::WriteFile { path, content, .. } if path.ends_with("/gdrdrv.service") => Some(content.clone()),
        _ => None,
    });
    let unit = unit.expect("the plan writes it");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c '")).expect("it starts a shell");
    let program = line.strip_suffix('\'').expect("it is quoted").replace("$$", "$");
    assert!(!program.contains(['\'', '%', '\\']), "systemd would read it otherwise: {program}");
    let sandbox = Sandbox::new();
    sandbox.program("mknod", &format!("echo \"$@\" >>{}", sandbox.text("made")));
    let run = |devices: &str| {
        sandbox.write("devices", devices);
        sandbox.write("gdrdrv", "an old one");
        let text =
            program.replace("/proc/devices", &sandbox.text("devices")).replace("/dev/gdrdrv", &sandbox.text("gdrdrv"));
        let path = format!("{}:/usr/bin:/bin", sandbox.text("bin"));
        let status = std::process::Command::new("sh").args(["-c", &text]).env("PATH", path).status().expect("a shell");
        (status.code(), sandbox.read("made"), sandbox.path("gdrdrv").exists())
    };
    let others = "Character devices:\n  1 mem\n195 nvidia\n234 gdrdrv2\n";
    assert_eq!(run(others), (Some(1), String::new(), true), "without the module nothing is made, and it is said");
    let made = format!("-m 0666 {} c 235 0\n", sandbox.text("gdrdrv"));
    assert_eq!(run(&format!("{others}235 gdrdrv\n\nBlock devices:\n  7 loop\n")), (Some(0), made, false));
}
