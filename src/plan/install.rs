//! Owns the planner: from a request to stages, steps and actions. Every decision is made here or in
//! `request`; it does not know how an action is written in any format.

use super::action::{Action, Check, Run};
use super::request::{Chosen, Gpu, Request, choose};
use super::seal;
use super::word::Word;
use super::{Base, BootHook, Component, Plan, RELEASE_FILE, STATE_DIR, Stage, Step, Then};
use crate::catalog::distribution::{Distribution, FileContent};
use crate::catalog::efa::compare_versions;
use crate::catalog::{Catalog, InitSystem};
use crate::error::{Class, Error, Result};

const EFA_PREFIX: &str = "/opt/amazon/efa";
const MPI_PREFIX: &str = "/opt/amazon/openmpi";
const NCCL_PREFIX: &str = "/opt/nccl";
const TESTS_PREFIX: &str = "/opt/nccl-tests";
/// What the script's own PATH is; plugin tests need mpicc in front of it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const EXTRA_SCRIPT: &str = "/var/lib/efa-gen/extra-script";

/// Plans the install that the request asks for. Fails with what can't be had and what could.
pub fn plan(catalog: &Catalog, request: &Request) -> Result<Plan> {
    let chosen = choose(catalog, request)?;
    let distribution = chosen.distribution;
    let init = &catalog.init_systems[&distribution.init];
    let components = components(&chosen);
    let mut stages = vec![prepare(&chosen), update(distribution), kernel(&chosen)];
    if let Some(gpu) = &chosen.gpu {
        stages.push(driver(gpu));
    }
    stages.push(efa(&chosen));
    if let Some(gpu) = &chosen.gpu {
        stages.push(nccl(gpu));
        if gpu.resolved.plugin.source.is_some() {
            stages.push(plugin(gpu));
        }
        stages.push(nccl_tests(gpu));
    }
    stages.push(environment_stage(&chosen, init, &components));
    if let Some(text) = &request.extra_script {
        stages.push(extra(text)?);
    }
    stages.push(check(&chosen));
    if let Some(gpu) = chosen.gpu.as_ref().filter(|_| request.test) {
        stages.push(test(&chosen, gpu));
    }
    stages.push(seal::stage(distribution));
    Ok(Plan {
        schema: 1,
        distribution: distribution.id.clone(),
        distribution_name: distribution.name.clone(),
        note: distribution.note.clone(),
        stack: chosen.stack_id.clone(),
        instance_type: chosen.instance_type.map(|t| t.name.clone()),
        architectures: chosen.gpu.as_ref().map_or_else(Vec::new, |gpu| gpu.architectures.clone()),
        components,
        base: base(&chosen),
        environment: distribution.packages.environment.clone().into_iter().collect(),
        package_locks: package_locks(distribution),
        boot_hook: boot_hook(init),
        stages,
    })
}

fn base(chosen: &Chosen) -> Base {
    let Distribution { ami, os_release, cloud_init, .. } = chosen.distribution;
    // Room for the distribution, EFA and the user's own software, and for CUDA and the build trees.
    let root_gib =
        20 + chosen.gpu.as_ref().map_or(0, |gpu| (20 + gpu.resolved.cuda.space_mib / 1024).next_multiple_of(10));
    Base {
        owners: ami.owners.clone(),
        name: ami.name.clone(),
        architecture: os_release.machine.clone(),
        deprecated: ami.deprecated,
        user: ami.user.clone(),
        sudo_needs_tty: ami.sudo_needs_tty,
        root_device: ami.root_device.clone(),
        root_gib,
        imdsv2: cloud_init.imdsv2,
        cloud_init: cloud_init.version.clone(),
    }
}

fn boot_hook(init: &InitSystem) -> BootHook {
    let run_all = |argvs: &[Vec<String>]| argvs.iter().map(|argv| Run::new(argv).into()).collect::<Vec<Action>>();
    let mut install = vec![write_file(&init.unit)];
    install.extend(run_all(&init.enable));
    let mut remove = run_all(&init.disable);
    remove.push(Action::Remove { paths: vec![init.unit.path.clone()] });
    let start = if init.start.is_empty() { Vec::new() } else { vec![Run::new(&init.start).into()] };
    BootHook { install, start, remove }
}

fn components(chosen: &Chosen) -> Vec<Component> {
    let download = |name, title, version: &str, download: &crate::catalog::stack::Download| Component {
        name,
        title,
        version: version.to_owned(),
        origin: download.url.clone(),
        digest: download.sha256.as_ref().map(|hex| format!("sha256:{hex}")),
        published: download.published.clone(),
    };
    let tree = |name, title, version: &str, url: &str, commit: &str, published: &str| Component {
        name,
        title,
        version: version.to_owned(),
        origin: url.to_owned(),
        digest: Some(format!("commit:{commit}")),
        published: published.to_owned(),
    };
    let mut list = vec![download("efa", "EFA installer", &chosen.efa_version, &chosen.efa)];
    let Some(gpu) = &chosen.gpu else { return list };
    let stack = &gpu.resolved;
    list.push(download("driver", "NVIDIA driver", &stack.driver.version, &gpu.driver));
    if let Some(fabric_manager) = &gpu.fabric_manager {
        list.push(download("fabric-manager", "NVIDIA fabric manager", &stack.driver.version, fabric_manager));
    }
    list.push(download("cuda", "CUDA toolkit", &stack.cuda.version, &gpu.cuda));
    let nccl = stack.nccl;
    list.push(tree("nccl", "NCCL", &nccl.version, &nccl.url, &nccl.commit, &nccl.published));
    list.push(match &stack.plugin.source {
        Some(source) => {
            tree("plugin", "aws-ofi-nccl", &stack.plugin.version, &source.url, &source.commit, &source.published)
        }
        None => Component {
            name: "plugin",
            title: "aws-ofi-nccl",
            version: stack.plugin.version.clone(),
            origin: "bundled with the EFA installer".into(),
            digest: None,
            published: "EFA release notes".into(),
        },
    });
    let tests = stack.nccl_tests;
    list.push(tree("nccl-tests", "nccl-tests", &tests.version, &tests.url, &tests.commit, &tests.published));
    list
}

fn prepare(chosen: &Chosen) -> Stage {
    let distribution = chosen.distribution;
    let os = &distribution.os_release;
    let mut steps = vec![
        Step::new(
            "machine",
            format!("Check that this is {}", distribution.name),
            vec![
                Action::Assert(Check::System {
                    id: os.id.clone(),
                    version: os.version.clone(),
                    machine: os.machine.clone(),
                }),
                // What the update and the installer themselves take; later stages check for their own.
                Action::Assert(Check::FreeSpace { mib: 4096 }),
            ],
        )
        .hint(
            "this script is for one distribution: render another one for this machine, or give it a larger root volume",
        ),
        Step::new(
            "cloud-init",
            "Wait for cloud-init",
            vec![match distribution.cloud_init.wait.as_slice() {
                [] => Action::WaitForBootFinished,
                argv => Action::WaitForCloudInit { argv: argv.to_vec() },
            }],
        )
        .why("until it is done, cloud-init may hold the package locks and rewrite the package sources")
        .hint("see /var/log/cloud-init.log and /var/log/cloud-init-output.log"),
    ];
    for repair in &distribution.repositories {
        let mut actions: Vec<Action> = repair.write.iter().map(write_file).collect();
        actions.extend(repair.replace.iter().map(|replace| Action::Replace {
            files: replace.files.clone(),
            pattern: replace.pattern.clone(),
            with: replace.with.clone(),
        }));
        actions.extend(repair.run.iter().map(|argv| package_run(argv).into()));
        let mut step = Step::new(&repair.id, &repair.title, actions).why(&repair.why);
        step.hint.clone_from(&repair.hint);
        steps.push(step);
    }
    let mut actions = vec![Action::OwnPackageLocks];
    actions.push(package_run(&distribution.packages.refresh).into());
    actions.extend(install(distribution, &distribution.packages.names.base));
    steps.push(
        Step::new("tools", "Install the tools that this script calls", actions)
            .hint("see whether the package sources answer from this machine"),
    );
    stage("prepare", "Prepare the machine", Then::Continue, steps)
}

fn update(distribution: &Distribution) -> Stage {
    let mut actions = vec![Action::OwnPackageLocks];
    actions.push(package_run(&distribution.packages.upgrade).into());
    let step = Step::new("upgrade", "Upgrade every package", actions)
        .why("the reboot that follows is missing in AWS's guide of 2020: without it the headers of the running kernel may be gone");
    stage("update", "Update the system, then reboot into its kernel", Then::Reboot, vec![step])
}

fn kernel(chosen: &Chosen) -> Stage {
    let distribution = chosen.distribution;
    let names = &distribution.packages.names;
    let mut headers = vec![Action::OwnPackageLocks];
    headers.extend(install(distribution, &names.headers));
    headers.push(Action::Assert(Check::Exists { path: Word::template("/lib/modules/{kernel}/build/Makefile") }));
    let mut packages = names.compilers.clone();
    if chosen.gpu.is_some() {
        packages.extend(names.driver.iter().chain(&names.build).cloned());
    }
    let mut tools = vec![Action::OwnPackageLocks];
    tools.extend(install(distribution, &packages));
    let mut steps = vec![
        Step::new("newest", "Check that the newest kernel is running", vec![Action::Assert(Check::NewestKernel)])
            .why("modules are built for the running kernel, and the image boots the newest one")
            .hint("reboot the machine, then run the script again"),
        Step::new("headers", "Install the running kernel's headers", headers)
            .hint("the package sources no longer have headers for this kernel: update the machine and reboot"),
        Step::new("compilers", "Install compilers and libraries", tools),
    ];
    if chosen.gpu.is_none() {
        return stage("kernel", "Kernel headers and compilers", Then::Continue, steps);
    }
    steps.push(nouveau(distribution));
    stage("kernel", "Kernel headers and compilers; nouveau off, then reboot", Then::Reboot, steps)
}

fn nouveau(distribution: &Distribution) -> Step {
    let kernel = &distribution.kernel;
    let mut actions = vec![Action::WriteFile {
        path: "/etc/modprobe.d/blacklist-nouveau.conf".into(),
        mode: "0644",
        content: "blacklist nouveau\noptions nouveau modeset=0\n".into(),
    }];
    actions.extend(kernel.nouveau_off.write.as_ref().map(write_file));
    actions.extend(kernel.nouveau_off.append.as_ref().map(|append| Action::AppendToLines {
        path: append.path.clone(),
        lines: append.lines.clone(),
        text: append.text.clone(),
    }));
    if !kernel.nouveau_off.apply.is_empty() {
        actions.push(Run::new(&kernel.nouveau_off.apply).into());
    }
    actions.push(Run::new(&kernel.rebuild_initramfs).into());
    Step::new("nouveau", "Turn nouveau off", actions).why(format!(
        "AWS's guide overwrites GRUB_CMDLINE_LINUX; here the arguments of {} are added to, never replaced",
        kernel.boot_loader
    ))
}

fn driver(gpu: &Gpu) -> Stage {
    let driver = gpu.resolved.driver;
    let cuda = gpu.resolved.cuda;
    let runfile = src("driver.run");
    let flavour = gpu.open_modules.then_some("--kernel-module-build-directory=kernel-open");
    // With a kernel named, installers up to R495 do not test-load the module, which fails without a GPU.
    let install = ["sh", &runfile, "--silent", "--no-drm", "--kernel-name={kernel}"].into_iter().chain(flavour);
    let mut steps = vec![
        Step::new(
            "nouveau",
            "Check that nouveau is not loaded",
            vec![
                Action::Assert(Check::ModuleAbsent { module: "nouveau".into() }),
                Action::Assert(Check::FreeSpace { mib: cuda.space_mib }),
            ],
        )
        .hint("reboot the machine if nouveau is loaded; give it a larger root volume if space is short"),
        Step::new(
            "driver",
            format!("Install NVIDIA driver {}", driver.version),
            vec![
                fetch(&gpu.driver, &runfile),
                Run::new(install).into(),
                prints(["modinfo", "-F", "version", "nvidia"], &driver.version),
                Action::Remove { paths: vec![runfile] },
            ],
        )
        .why("before EFA: its modules are built against the driver's, and a driver rebuilt later breaks them")
        .hint("see /var/log/nvidia-installer.log"),
    ];
    if let Some(download) = &gpu.fabric_manager {
        steps.push(fabric_manager(download));
    }
    let runfile = src("cuda.run");
    let prefix = cuda_prefix(gpu);
    let tmp = src("tmp");
    steps.push(
        Step::new(
            "cuda",
            format!("Install CUDA {}", cuda.version),
            vec![
                fetch(&gpu.cuda, &runfile),
                Run::new(["mkdir", "-p", &tmp]).into(),
                Run::new([
                    "sh",
                    &runfile,
                    "--silent",
                    "--toolkit",
                    &format!("--toolkitpath={prefix}"),
                    &format!("--tmpdir={tmp}"),
                ])
                .into(),
                prints([&format!("{prefix}/bin/nvcc"), "--version"], &format!("V{}", cuda.version)),
                Action::Remove { paths: vec![runfile, tmp] },
            ],
        )
        .hint("see /var/log/cuda-installer.log"),
    );
    let title = format!("NVIDIA driver {} and CUDA {}", driver.version, cuda.version);
    stage("driver", title, Then::Continue, steps)
}

fn fabric_manager(download: &crate::catalog::stack::Download) -> Step {
    let archive = src("fabric-manager.tar.xz");
    let dir = src("fabric-manager");
    // The archive holds one folder of its own name.
    let name = download.url.rsplit('/').next().and_then(|file| file.strip_suffix(".tar.xz")).unwrap_or("");
    let top = format!("{dir}/{name}");
    let copy = |from: &str, to: &str| -> Action { Run::new(["cp", "-R", from, to]).in_dir(&top).into() };
    Step::new(
        "fabric-manager",
        "Install the fabric manager",
        vec![
            fetch(download, &archive),
            Action::Unpack { archive: archive.clone(), dir: dir.clone() },
            Run::new(["mkdir", "-p", "/usr/share/nvidia/nvswitch"]).into(),
            copy("bin/.", "/usr/bin/"),
            copy("lib/.", "/usr/lib/"),
            copy("share/nvidia/.", "/usr/share/nvidia/"),
            copy("etc/.", "/usr/share/nvidia/nvswitch/"),
            copy("systemd/.", "/etc/systemd/system/"),
            Run::new(["systemctl", "enable", "nvidia-fabricmanager.service"]).into(),
            Action::Remove { paths: vec![archive, dir] },
        ],
    )
    .why("without it, and in exactly the driver's version, CUDA fails with error 802 on machines with an NVSwitch")
}

fn efa(chosen: &Chosen) -> Stage {
    let version = &chosen.efa_version;
    let archive = src("efa.tar.gz");
    let dir = src("efa");
    let at_least = |limit: &str| compare_versions(version, limit).is_ge();
    // The installer knew --enable-gdr from 1.10.0 on and stopped needing it with 1.14.0.
    let gdr = chosen.instance_type.is_some_and(|t| t.gpudirect) && at_least("1.10.0") && !at_least("1.14.0");
    let argv = ["./efa_installer.sh", "-y"].into_iter().chain(gdr.then_some("-g"));
    let mut run = vec![Action::OwnPackageLocks];
    run.push(Run::new(argv).in_dir(&format!("{dir}/aws-efa-installer")).into());
    run.push(Action::Assert(Check::Contains {
        path: "/opt/amazon/efa_installed_packages".into(),
        text: format!("EFA installer version: {version}"),
    }));
    for program in [format!("{EFA_PREFIX}/bin/fi_info"), format!("{MPI_PREFIX}/bin/mpirun")] {
        run.push(Action::Assert(Check::Exists { path: Word::literal(program) }));
    }
    if chosen.gpu.is_none() && at_least("1.41.0") {
        // Its module needs symbols of the NVIDIA driver, which a CPU-only image does not have.
        let argv = chosen.distribution.packages.remove.iter().map(String::as_str).chain(["efa-nv-peermem"]);
        run.push(Run::new(argv).into());
    }
    let steps = vec![
        Step::new(
            "fetch",
            "Download the installer and check its digest",
            vec![
                Action::Assert(Check::FreeSpace { mib: 3072 }),
                fetch(&chosen.efa, &archive),
                Action::Unpack { archive: archive.clone(), dir: dir.clone() },
            ],
        )
        .why("the digest that AWS published stands here, so no key and no keyring is needed on this machine"),
        Step::new("install", format!("Run EFA installer {version}"), run)
            .hint("its own messages are in the log; it needs the running kernel's headers and the distribution's package sources"),
        Step::new("tidy", "Remove the installer", vec![Action::Remove { paths: vec![archive, dir] }]),
    ];
    stage("efa", format!("EFA installer {version}"), Then::Continue, steps)
}

fn nccl(gpu: &Gpu) -> Stage {
    let nccl = gpu.resolved.nccl;
    let dir = src("nccl");
    let mut make = vec![
        "make".to_owned(),
        "-j{jobs}".into(),
        "src.install".into(),
        format!("PREFIX={NCCL_PREFIX}"),
        format!("BUILDDIR={dir}/build"),
        format!("CUDA_HOME={}", cuda_prefix(gpu)),
        format!("NVCC_GENCODE={}", gencode(gpu)),
    ];
    make.extend(nccl.make.iter().cloned());
    // 2.7.8-1 is release 2.7.8, packaging 1.
    let release = nccl.version.split('-').next().unwrap_or(&nccl.version);
    let step = Step::new(
        "build",
        "Check out the pinned commit, build, install",
        vec![
            Action::Assert(Check::FreeSpace { mib: 6144 }),
            Action::Checkout { url: nccl.url.clone(), commit: nccl.commit.clone(), dir: dir.clone() },
            Run::new(&make).in_dir(&dir).into(),
            Action::Assert(Check::Exists { path: Word::literal(format!("{NCCL_PREFIX}/lib/libnccl.so.{release}")) }),
            Action::Remove { paths: vec![dir] },
        ],
    )
    .why("jobs are bounded by cores and memory, and only the GPUs asked for are built: `make -j` is neither");
    stage("nccl", format!("NCCL {} for {}", nccl.version, gpu.architectures.join(", ")), Then::Continue, vec![step])
}

fn plugin(gpu: &Gpu) -> Stage {
    let plugin = gpu.resolved.plugin;
    let dir = src("aws-ofi-nccl");
    let mut steps = Vec::new();
    if let Some(source) = &plugin.source {
        let mut configure = vec![
            "./configure".to_owned(),
            format!("--prefix={}", plugin.prefix),
            format!("--with-libfabric={EFA_PREFIX}"),
            format!("--with-mpi={MPI_PREFIX}"),
            format!("--with-cuda={}", cuda_prefix(gpu)),
        ];
        configure.extend(source.configure.iter().cloned());
        let path = format!("{MPI_PREFIX}/bin:{PATH}");
        let build =
            |argv: &[String]| -> Action { Run::new(argv).in_dir(&dir).environment([("PATH", path.as_str())]).into() };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        steps.push(
            Step::new(
                "build",
                "Check out the pinned commit, build, install",
                vec![
                    Action::Checkout { url: source.url.clone(), commit: source.commit.clone(), dir: dir.clone() },
                    build(&words(&["./autogen.sh"])),
                    build(&configure),
                    build(&words(&["make", "-j{jobs}"])),
                    build(&words(&["make", "install"])),
                    Action::Assert(Check::Exists { path: Word::literal(format!("{}/lib/{}", plugin.prefix, plugin.library)) }),
                    Action::Remove { paths: vec![dir.clone()] },
                ],
            )
            .why(
                "AWS's guide gives no prefix: on RPM distributions NCCL then never finds the plugin, runs over TCP and reports success",
            ),
        );
    }
    stage("plugin", format!("aws-ofi-nccl {}", plugin.version), Then::Continue, steps)
}

fn nccl_tests(gpu: &Gpu) -> Stage {
    let tests = gpu.resolved.nccl_tests;
    let dir = src("nccl-tests");
    let mut make = vec![
        "make".to_owned(),
        "-j{jobs}".into(),
        "MPI=1".into(),
        format!("MPI_HOME={MPI_PREFIX}"),
        format!("NCCL_HOME={NCCL_PREFIX}"),
        format!("CUDA_HOME={}", cuda_prefix(gpu)),
        format!("BUILDDIR={TESTS_PREFIX}/build"),
        format!("NVCC_GENCODE={}", gencode(gpu)),
    ];
    make.extend(tests.make.iter().cloned());
    let step = Step::new(
        "build",
        "Check out the pinned commit, build",
        vec![
            Action::Checkout { url: tests.url.clone(), commit: tests.commit.clone(), dir: dir.clone() },
            Run::new(&make).in_dir(&dir).into(),
            Action::Assert(Check::Exists { path: Word::literal(format!("{TESTS_PREFIX}/build/all_reduce_perf")) }),
            Action::Remove { paths: vec![dir, format!("{TESTS_PREFIX}/build/*.o")] },
        ],
    );
    stage("nccl-tests", format!("nccl-tests {}", tests.version), Then::Continue, vec![step])
}

fn environment_stage(chosen: &Chosen, init: &InitSystem, components: &[Component]) -> Stage {
    let kernel_hold = &chosen.distribution.kernel.hold;
    let mut limits = vec![Action::WriteFile {
        path: "/etc/security/limits.d/99-efa-gen.conf".into(),
        mode: "0644",
        content: "* soft memlock unlimited\n* hard memlock unlimited\nroot soft memlock unlimited\nroot hard memlock unlimited\n".into(),
    }];
    limits.extend(init.memlock.as_ref().map(write_file));
    let mut hold: Vec<Action> = kernel_hold
        .line
        .iter()
        .map(|line| Action::EnsureLine { path: line.path.clone(), line: line.line.clone() })
        .collect();
    if !kernel_hold.run.is_empty() {
        hold.push(package_run(&kernel_hold.run).into());
    }
    let libraries = library_dirs(chosen).join("\n") + "\n";
    let release = release(components);
    let steps = vec![
        Step::new("libraries", "Make the libraries known to the loader", {
            let mut actions = bundled_plugin_link(chosen);
            actions.push(Action::WriteFile {
                path: "/etc/ld.so.conf.d/efa-gen.conf".into(),
                mode: "0644",
                content: libraries,
            });
            actions.push(Run::new(["ldconfig"]).into());
            actions
        })
        .why("MPI starts ranks without a login shell, so what only a shell's startup file sets is not there"),
        Step::new(
            "profile",
            "Set PATH for login shells",
            vec![
                Action::WriteFile {
                    path: "/etc/profile.d/efa-gen.sh".into(),
                    mode: "0644",
                    content: profile(chosen, false),
                },
                Action::WriteFile {
                    path: "/etc/profile.d/efa-gen.csh".into(),
                    mode: "0644",
                    content: profile(chosen, true),
                },
            ],
        ),
        Step::new("memlock", "Let every session lock memory", limits)
            .why("EFA registers memory; a limit of 64 KiB ends in \"Cannot allocate memory\""),
        Step::new("hold", "Hold the kernel", hold).why("a later kernel has none of the modules that were built here"),
        Step::new(
            "release",
            format!("Record what was installed in {RELEASE_FILE}"),
            vec![Action::WriteFile { path: RELEASE_FILE.into(), mode: "0644", content: release }],
        ),
    ];
    stage("environment", "Paths, limits, held kernel", Then::Continue, steps)
}

/// One line of JSON a component, in brackets.
fn release(components: &[Component]) -> String {
    let line = |c: &Component| {
        serde_json::json!({ "name": c.name, "version": c.version, "origin": c.origin, "digest": c.digest }).to_string()
    };
    format!("[\n{}\n]\n", components.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

/// EFA packages from 1.44 on name the plugin libnccl-net-ofi.so; NCCL looks for libnccl-net.so.
fn bundled_plugin_link(chosen: &Chosen) -> Vec<Action> {
    let Some(gpu) = chosen.gpu.as_ref().filter(|gpu| gpu.resolved.plugin.source.is_none()) else { return Vec::new() };
    let dir = plugin_lib_dir(chosen, gpu);
    vec![
        Action::Assert(Check::Exists { path: Word::literal(format!("{dir}/{}", gpu.resolved.plugin.library)) }),
        Run::new(["ln", "-sfn", &gpu.resolved.plugin.library, &format!("{dir}/libnccl-net.so")]).into(),
    ]
}

fn plugin_lib_dir(chosen: &Chosen, gpu: &Gpu) -> String {
    let plugin = gpu.resolved.plugin;
    let lib = if plugin.source.is_some() { "lib" } else { &chosen.distribution.lib_dir };
    format!("{}/{lib}", plugin.prefix)
}

fn library_dirs(chosen: &Chosen) -> Vec<String> {
    let lib = &chosen.distribution.lib_dir;
    let mut dirs = vec![format!("{EFA_PREFIX}/{lib}"), format!("{MPI_PREFIX}/{lib}")];
    if let Some(gpu) = &chosen.gpu {
        dirs.extend([format!("{NCCL_PREFIX}/lib"), plugin_lib_dir(chosen, gpu), format!("{}/lib64", cuda_prefix(gpu))]);
    }
    dirs
}

fn profile(chosen: &Chosen, csh: bool) -> String {
    let mut bins = vec![format!("{EFA_PREFIX}/bin"), format!("{MPI_PREFIX}/bin")];
    bins.extend(chosen.gpu.as_ref().map(|gpu| format!("{}/bin", cuda_prefix(gpu))));
    let bins = bins.join(":");
    if csh {
        return format!("if (\":${{PATH}}:\" !~ *:{bins}:*) setenv PATH {bins}:${{PATH}}\n");
    }
    format!("case \":$PATH:\" in\n  *:{bins}:*) ;;\n  *) export PATH={bins}:$PATH ;;\nesac\n")
}

fn extra(text: &str) -> Result<Stage> {
    if !text.starts_with("#!") {
        return Err(Error::new(Class::Usage, "the extra script does not begin with `#!`")
            .hint("begin it with the interpreter, for example `#!/bin/bash`"));
    }
    if text.contains('\0') {
        return Err(Error::new(Class::Usage, "the extra script holds a NUL byte, so it is not a text file"));
    }
    let step = Step::new(
        "run",
        "Run the extra script",
        vec![
            Action::WriteFile { path: EXTRA_SCRIPT.into(), mode: "0755", content: text.to_owned() },
            Run::new([EXTRA_SCRIPT]).into(),
            Action::Remove { paths: vec![EXTRA_SCRIPT.into()] },
        ],
    )
    .hint("it is your own script; when it fails, this step runs it again from its beginning");
    Ok(stage("extra", "Your own steps", Then::Continue, vec![step]))
}

fn check(chosen: &Chosen) -> Stage {
    let mut steps = Vec::new();
    if let Some(gpu) = &chosen.gpu {
        let library = format!("{}/libnccl-net.so", plugin_lib_dir(chosen, gpu));
        steps.push(
            Step::new(
                "plugin",
                "Check that the plugin can be loaded",
                vec![Action::Assert(Check::LibrariesFound { library })],
            )
            .why("a plugin that can't be loaded is silent: NCCL falls back to TCP"),
        );
        let driver = gpu.resolved.driver.version.clone();
        steps.push(Step::new("gpus", "Check the GPUs, if there are any", vec![Action::Assert(Check::Gpus { driver })]));
    }
    let fi_info = format!("{EFA_PREFIX}/bin/fi_info");
    steps.push(
        Step::new(
            "efa",
            "Check the EFA devices, if there are any",
            vec![Action::Assert(Check::EfaDevices { fi_info })],
        )
        .hint("see whether the efa module is loaded (modprobe efa, dmesg); a reboot loads the one just installed"),
    );
    let user = chosen.distribution.ami.user.clone();
    steps.push(
        Step::new("memlock", "Check the memlock limit of a new session", vec![Action::Assert(Check::Memlock { user })])
            .hint("see /etc/security/limits.d and whether PAM reads it"),
    );
    stage("check", "Check what was installed", Then::Continue, steps)
}

fn test(chosen: &Chosen, gpu: &Gpu) -> Stage {
    let hostfile = format!("{STATE_DIR}/hostfile");
    let mut argv: Vec<Word> =
        vec![Word::literal(format!("{MPI_PREFIX}/bin/mpirun")), Word::literal("--allow-run-as-root")];
    let mut variables = gpu.resolved.stack.run_environment.clone();
    // Up to plugin 1.6, GPUDirect had to be asked for; libfabric aborts where the device can't.
    let old_plugin = compare_versions(&gpu.resolved.plugin.version, "1.7.0").is_lt();
    if old_plugin && chosen.instance_type.is_some_and(|t| t.gpudirect) {
        variables.push(("FI_EFA_USE_DEVICE_RDMA".into(), "1".into()));
    }
    variables.push(("LD_LIBRARY_PATH".into(), library_dirs(chosen).join(":")));
    for (name, value) in variables {
        argv.extend([Word::literal("-x"), Word::literal(format!("{name}={value}"))]);
    }
    let rest = [
        "--hostfile",
        &hostfile,
        "-n",
        "{gpus}",
        "-N",
        "{gpus}",
        "--mca",
        "pml",
        "^cm",
        "--mca",
        "btl",
        "tcp,self",
        "--mca",
        "btl_tcp_if_exclude",
        "lo,docker0",
        "--bind-to",
        "none",
    ];
    argv.extend(rest.iter().map(|word| Word::template(word)));
    argv.push(Word::literal(format!("{TESTS_PREFIX}/build/all_reduce_perf")));
    argv.extend(["-b", "8", "-e", "1G", "-f", "2", "-g", "1", "-c", "1", "-n", "100"].map(Word::literal));
    let step = Step::new(
        "all-reduce",
        "Run all_reduce_perf and judge its log",
        vec![Action::NcclTest { argv, hostfile, timeout_s: 1800 }],
    )
    .why("one host never uses the network: this proves that the plugin loads and selects EFA, no more")
    .hint("the whole output is in the log; the verdict names the line that decided");
    stage("test", "all_reduce_perf on this machine", Then::Continue, vec![step])
}

fn stage(id: &'static str, title: impl Into<String>, then: Then, steps: Vec<Step>) -> Stage {
    Stage { id, title: title.into(), then, image_only: false, steps }
}

fn write_file(file: &FileContent) -> Action {
    Action::WriteFile { path: file.path.clone(), mode: "0644", content: file.content.clone() }
}

fn fetch(download: &crate::catalog::stack::Download, path: &str) -> Action {
    let sha256 = download.sha256.clone().expect("choose() gives every download a digest");
    Action::Fetch { url: download.url.clone(), sha256, path: path.to_owned() }
}

fn prints<const N: usize>(argv: [&str; N], text: &str) -> Action {
    Action::Assert(Check::Prints {
        argv: argv.iter().map(|word| Word::literal(*word)).collect(),
        text: text.to_owned(),
    })
}

/// Stops the distribution's timers and waits for the package locks.
fn package_locks(distribution: &Distribution) -> Vec<Action> {
    let packages = &distribution.packages;
    let mut actions: Vec<Action> = packages.quiet.iter().map(|argv| Run::new(argv).into()).collect();
    if !packages.locks.is_empty() {
        actions.push(Action::WaitForLocks { files: packages.locks.clone() });
    }
    actions
}

fn package_run(argv: &[String]) -> Run {
    Run::new(argv).attempts(3)
}

/// Installs packages and checks each: yum succeeds as long as one of those it was given exists.
fn install(distribution: &Distribution, names: &[String]) -> Vec<Action> {
    let packages = &distribution.packages;
    let argv: Vec<String> = packages.install.iter().chain(names).cloned().collect();
    let names = names.iter().map(|name| Word::template(name)).collect();
    vec![
        package_run(&argv).into(),
        Action::Assert(Check::Installed { query: packages.installed.clone(), packages: names }),
    ]
}

/// `/usr/local/cuda-10.1`, from the version's first two numbers.
fn cuda_prefix(gpu: &Gpu) -> String {
    let mut numbers = gpu.resolved.cuda.version.split('.');
    format!("/usr/local/cuda-{}.{}", numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"))
}

/// nvcc's flags for exactly the chosen architectures.
fn gencode(gpu: &Gpu) -> String {
    let flag = |sm: &String| {
        let number = sm.trim_start_matches("sm_");
        format!("-gencode=arch=compute_{number},code=sm_{number}")
    };
    gpu.architectures.iter().map(flag).collect::<Vec<_>>().join(" ")
}

fn src(name: &str) -> String {
    format!("{STATE_DIR}/src/{name}")
}
