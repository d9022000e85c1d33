//! Owns the lowering of actions to calls of the script's functions.

use crate::error::Result;
use crate::plan::{Action, Argument, Assertion, GuestCommand, GuestVariable, Segment};
use crate::shell::quote;

/// Where a long command is broken.
const WIDTH: usize = 112;

/// Lowers actions to lines of a function body, two blanks deep (here-documents excepted).
pub fn body(actions: &[Action]) -> Result<String> {
    if actions.is_empty() {
        return Ok("  :".into());
    }
    Ok(actions.iter().map(action).collect::<Result<Vec<_>>>()?.join("\n"))
}

/// Lowers commands to one that tries each until one succeeds; none at all succeeds.
pub fn first_that_succeeds(argvs: &[Vec<String>]) -> Result<String> {
    if argvs.is_empty() {
        return Ok("  :".into());
    }
    let line = |argv: &Vec<String>| Ok(wrap(&argv.iter().map(|word| quote(word)).collect::<Result<Vec<_>>>()?));
    Ok(argvs.iter().map(line).collect::<Result<Vec<_>>>()?.join(" ||\n"))
}

/// The functions of the script's library that an action calls; those that every script has are left out.
pub(crate) fn functions(action: &Action) -> Vec<&'static str> {
    match action {
        Action::Run(command) => {
            let mut names = Vec::new();
            names.extend(command.dir.as_ref().map(|_| "in_folder"));
            names.extend(command.packages.then_some("package"));
            names
        }
        Action::WaitForLocks { .. } => vec!["wait_for_locks"],
        Action::MaskUnits { .. } => vec!["mask_units"],
        Action::UnmaskUnits => vec!["unmask_units"],
        Action::FreeDriver { .. } => vec!["free_driver"],
        Action::WaitForCloudInit { .. } => vec!["wait_for_cloud_init"],
        Action::WaitForBootFinished => vec!["wait_for_boot_finished"],
        Action::WriteFile { .. } => Vec::new(),
        Action::EnsureLine { .. } => vec!["ensure_line"],
        Action::AppendToLines { .. } => vec!["append_to_lines"],
        Action::Replace { .. } => vec!["matching", "replace"],
        Action::Fetch { .. } => vec!["fetch"],
        Action::Unpack { .. } => vec!["unpack"],
        Action::Checkout { .. } => vec!["in_folder", "checkout"],
        Action::Remove { .. } => vec!["matching", "remove"],
        Action::ForgetKey { .. } => vec!["forget_key"],
        Action::Empty { .. } => vec!["matching", "empty"],
        Action::RemoveFromHomes { .. } => vec!["matching", "remove", "in_homes"],
        Action::StripSsh { .. } => vec!["matching", "in_homes", "strip_ssh"],
        Action::RemoveSwap { .. } => vec!["matching", "remove_swap"],
        Action::Renew { .. } => vec!["renew"],
        Action::Quiesce { .. } => vec!["quiesce"],
        Action::KernelCompiler { .. } => vec!["package", "link_kernel_compiler"],
        Action::LeaveDigest => vec!["leave_digest"],
        Action::NcclTest { .. } => vec!["nccl_test"],
        Action::Assert(check) => functions_of_assertion(check),
    }
}

fn functions_of_assertion(check: &Assertion) -> Vec<&'static str> {
    match check {
        Assertion::System { .. } => vec!["assert_system"],
        Assertion::FreeSpace { .. } => vec!["assert_free_space"],
        Assertion::NewestKernel => vec!["kernels", "newest_kernel", "assert_newest_kernel"],
        Assertion::DriverKernel { .. } => vec!["kernels", "newest_kernel", "assert_driver_kernel"],
        Assertion::Installed { .. } => vec!["assert_installed"],
        Assertion::Exists { .. } => vec!["assert_exists"],
        Assertion::Gone { .. } => vec!["matching", "assert_gone"],
        Assertion::GoneFromHomes { .. } => vec!["matching", "in_homes", "assert_gone"],
        Assertion::SshStripped { .. } => vec!["matching", "in_homes", "strip_ssh"],
        Assertion::Contains { .. } => vec!["assert_contains"],
        Assertion::Prints { .. } => vec!["assert_prints"],
        Assertion::ModuleAbsent { .. } => vec!["assert_module_absent"],
        Assertion::LibrariesFound { .. } => vec!["assert_exists", "assert_libraries_found"],
        Assertion::Gpus { .. } => vec!["has_gpus", "every_gpu", "assert_gpus"],
        Assertion::ModuleFlavour { .. } => vec!["assert_module_flavour"],
        Assertion::NoPackages { .. } => vec!["assert_no_packages"],
        Assertion::Persistence { .. } => vec!["has_gpus", "every_gpu", "assert_persistence"],
        Assertion::Fabric { .. } => vec!["assert_fabric"],
        Assertion::CudaContexts { .. } => vec!["has_gpus", "assert_cuda_contexts"],
        Assertion::Gdrcopy { .. } => vec!["has_gpus", "assert_gdrcopy"],
        Assertion::PeerToPeer => vec!["has_gpus", "assert_peer_to_peer"],
        Assertion::HugePages { .. } => vec!["assert_huge_pages"],
        Assertion::PtraceScope => vec!["assert_ptrace_scope"],
        Assertion::EfaDevices { .. } => vec!["assert_efa_devices"],
        Assertion::Memlock { .. } => vec!["assert_memlock"],
        Assertion::Initramfs { .. } => vec!["kernels", "assert_initramfs"],
        Assertion::DkmsInstalled => vec!["assert_dkms_installed"],
    }
}

fn action(action: &Action) -> Result<String> {
    match action {
        Action::Run(command) => run(command),
        Action::WaitForLocks { files } => call("wait_for_locks", files),
        Action::MaskUnits { units } => call("mask_units", units),
        Action::UnmaskUnits => call("unmask_units", [""; 0]),
        Action::FreeDriver { stop } => call("free_driver", stop),
        Action::WaitForCloudInit { argv } => call("wait_for_cloud_init", argv),
        Action::WaitForBootFinished => call("wait_for_boot_finished", [""; 0]),
        Action::WriteFile { path, mode, content } => write_file(path, mode, content),
        Action::EnsureLine { path, line } => call("ensure_line", [path, line]),
        Action::AppendToLines { path, lines, text } => call("append_to_lines", [path, lines, text]),
        Action::Replace { files, pattern, with } => call("replace", [files, pattern, with]),
        Action::Fetch { url, sha256, sha512, path } => call("fetch", [url, sha256, path].into_iter().chain(sha512)),
        Action::Unpack { archive, dir, strip } => {
            let inside = "--strip-components=1".to_owned();
            call("unpack", [archive, dir].into_iter().chain(strip.then_some(&inside)))
        }
        Action::Checkout { url, commit, dir } => call("checkout", [url, commit, dir]),
        Action::Remove { paths } => call("remove", paths),
        Action::ForgetKey { fingerprint } => call("forget_key", [fingerprint]),
        Action::Empty { paths } => call("empty", paths),
        Action::RemoveFromHomes { homes, paths } => in_homes(homes, "remove", paths),
        Action::StripSsh { homes } => in_homes(homes, "strip_ssh", &[SSH]),
        Action::RemoveSwap { fstab, files } => call("remove_swap", [fstab].into_iter().chain(files)),
        Action::Renew { path, content } => call("renew", [path, content]),
        Action::Quiesce { booted, argv } => {
            let count = booted.len().to_string();
            call("quiesce", [&count].into_iter().chain(booted).chain(argv))
        }
        Action::KernelCompiler { version, link, other, install } => {
            let (package, program) = other.clone().unwrap_or_default();
            call("link_kernel_compiler", [version, link, &package, &program].into_iter().chain(install))
        }
        Action::LeaveDigest => call("leave_digest", [""; 0]),
        Action::NcclTest { argv, hostfile, timeout_s } => {
            let mut parts = vec!["nccl_test".to_owned(), timeout_s.to_string(), quote(hostfile)?];
            parts.extend(words(argv)?);
            Ok(wrap(&parts))
        }
        Action::Assert(check) => assertion(check),
    }
}

fn assertion(check: &Assertion) -> Result<String> {
    match check {
        Assertion::System { id, version, machine, kernel } => {
            call("assert_system", [id, version, machine].into_iter().chain(kernel))
        }
        Assertion::FreeSpace { mib } => call("assert_free_space", [mib.to_string()]),
        Assertion::NewestKernel => call("assert_newest_kernel", [""; 0]),
        Assertion::DriverKernel { driver, max } => call("assert_driver_kernel", [driver, max]),
        Assertion::Installed { query, packages } => {
            let mut parts = vec!["assert_installed".to_owned(), query.len().to_string()];
            for part in query {
                parts.push(quote(part)?);
            }
            parts.extend(words(packages)?);
            Ok(wrap(&parts))
        }
        Assertion::Exists { path } => Ok(wrap(&["assert_exists".to_owned(), word(path)?])),
        Assertion::Gone { paths } => call("assert_gone", paths),
        Assertion::GoneFromHomes { homes, paths } => in_homes(homes, "assert_gone", paths),
        Assertion::SshStripped { homes } => in_homes(homes, "assert_ssh_stripped", &[SSH]),
        Assertion::Contains { path, text } => call("assert_contains", [path, text]),
        Assertion::Prints { argv, text } => {
            let mut parts = vec!["assert_prints".to_owned(), quote(text)?];
            parts.extend(words(argv)?);
            Ok(wrap(&parts))
        }
        Assertion::ModuleAbsent { module } => call("assert_module_absent", [module]),
        Assertion::LibrariesFound { library } => call("assert_libraries_found", [library]),
        Assertion::Gpus { driver } => call("assert_gpus", [driver]),
        Assertion::ModuleFlavour { flavour, license } => call("assert_module_flavour", [flavour, license]),
        Assertion::NoPackages { query } => call("assert_no_packages", query),
        Assertion::Persistence { active } => call("assert_persistence", active),
        Assertion::Fabric { nvlink5 } => call("assert_fabric", nvlink5),
        Assertion::CudaContexts { program } => call("assert_cuda_contexts", [program]),
        Assertion::Gdrcopy { program } => call("assert_gdrcopy", [program]),
        Assertion::PeerToPeer => call("assert_peer_to_peer", [""; 0]),
        Assertion::HugePages { reserve } => call("assert_huge_pages", [reserve]),
        Assertion::PtraceScope => call("assert_ptrace_scope", [""; 0]),
        Assertion::EfaDevices { fi_info } => call("assert_efa_devices", [fi_info]),
        Assertion::Memlock { user } => call("assert_memlock", [user]),
        Assertion::Initramfs { path } => call("assert_initramfs", [path]),
        Assertion::DkmsInstalled => call("assert_dkms_installed", [""; 0]),
    }
}

fn run(command: &GuestCommand) -> Result<String> {
    let mut parts = Vec::new();
    if let Some(dir) = &command.dir {
        parts.extend(["in_folder".to_owned(), quote(dir)?]);
    }
    parts.push(if command.packages { "package" } else { "run" }.to_owned());
    if !command.environment.is_empty() {
        parts.push("env".into());
    }
    for (name, value) in &command.environment {
        parts.push(quote(&format!("{name}={value}"))?);
    }
    parts.extend(words(&command.argv)?);
    Ok(wrap(&parts))
}

/// A here-document gives exactly its lines, so content that does not end in one comes from printf: not through a
/// pipe, which would put the function into a process of its own.
fn write_file(path: &str, mode: &str, content: &str) -> Result<String> {
    let target = format!("write_file {mode} {}", quote(path)?);
    if !content.ends_with('\n') || content.contains('\0') {
        return Ok(format!("  {target} < <(printf %s {})", quote(content)?));
    }
    let mut end = "EOF".to_owned();
    while content.lines().any(|line| line == end) {
        end.push('_');
    }
    Ok(format!("  {target} <<'{end}'\n{content}{end}"))
}

fn call<S: AsRef<str>>(function: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let mut parts = vec![function.to_owned()];
    for argument in arguments {
        parts.push(quote(argument.as_ref())?);
    }
    Ok(wrap(&parts))
}

/// A user's `.ssh`, through a link if it is one.
const SSH: &str = ".ssh/.";

fn in_homes<S: AsRef<str>>(homes: &str, function: &str, paths: &[S]) -> Result<String> {
    call("in_homes", [homes, function].into_iter().chain(paths.iter().map(S::as_ref)))
}

fn words(argv: &[Argument]) -> Result<Vec<String>> {
    argv.iter().map(word).collect()
}

/// A word with its literal parts quoted and its facts as quoted variables.
pub fn word(word: &Argument) -> Result<String> {
    let part = |part: &Segment| match part {
        Segment::Text(text) => quote(text),
        Segment::Guest(GuestVariable::Kernel) => Ok("\"$KERNEL\"".to_owned()),
        Segment::Guest(GuestVariable::Jobs) => Ok("\"$JOBS\"".to_owned()),
        Segment::Guest(GuestVariable::Gpus) => Ok("\"$GPUS\"".to_owned()),
    };
    word.parts().iter().map(part).collect()
}

/// Joins the parts of a command, broken into lines where it is long, but not between an option and its value.
fn wrap(parts: &[String]) -> String {
    let is_option = |part: &String| part.starts_with('-') && !part.contains(['=', '"']);
    let mut groups: Vec<String> = Vec::new();
    let mut after_option = false;
    for part in parts {
        match groups.last_mut().filter(|_| after_option && !part.starts_with('-')) {
            Some(group) => *group += &format!(" {part}"),
            None => groups.push(part.clone()),
        }
        after_option = is_option(part);
    }
    let mut lines = vec![String::from(" ")];
    for group in groups {
        let line = lines.last_mut().expect("there is always a line");
        if line.trim().is_empty() || line.chars().count() + 1 + group.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(&group);
        } else {
            lines.push(format!("    {group}"));
        }
    }
    lines.join(" \\\n")
}
