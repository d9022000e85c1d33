//! Owns shell text: the lowering of actions to calls of the script's functions, and all quoting. Nobody
//! else writes shell. Knows nothing of stages or templates.

use crate::error::{Class, Error, Result};
use crate::plan::{Action, Check, Fact, Part, Run, Word};

/// Where a long command is broken.
const WIDTH: usize = 112;

/// Quotes text so that bash and sh read back exactly these bytes. NUL can't be passed to a program.
pub fn quote(text: &str) -> Result<String> {
    // As an argument, these need no quotes in any shell, and the text reads better without.
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    if !text.contains(['\'', '\0']) {
        return Ok(format!("'{text}'"));
    }
    shlex::try_quote(text).map(|quoted| quoted.into_owned()).map_err(|error| {
        Error::new(Class::Usage, format!("`{}` can't be an argument of a command", text.escape_debug())).because(error)
    })
}

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

fn action(action: &Action) -> Result<String> {
    match action {
        Action::Run(command) => run(command),
        Action::WaitForLocks { files } => call("wait_for_locks", files),
        Action::WaitForCloudInit { argv } => call("wait_for_cloud_init", argv),
        Action::WaitForBootFinished => call("wait_for_boot_finished", [""; 0]),
        Action::WriteFile { path, mode, content } => write_file(path, mode, content),
        Action::EnsureLine { path, line } => call("ensure_line", [path, line]),
        Action::AppendToLines { path, lines, text } => call("append_to_lines", [path, lines, text]),
        Action::Replace { files, pattern, with } => call("replace", [files, pattern, with]),
        Action::Fetch { url, sha256, path } => call("fetch", [url, sha256, path]),
        Action::Unpack { archive, dir } => call("unpack", [archive, dir]),
        Action::Checkout { url, commit, dir } => call("checkout", [url, commit, dir]),
        Action::Remove { paths } => call("remove", paths),
        Action::Empty { paths } => call("empty", paths),
        Action::NcclTest { argv, hostfile, timeout_s } => {
            let mut parts = vec!["nccl_test".to_owned(), timeout_s.to_string(), quote(hostfile)?];
            parts.extend(words(argv)?);
            Ok(wrap(&parts))
        }
        Action::Assert(check) => assertion(check),
    }
}

fn assertion(check: &Check) -> Result<String> {
    match check {
        Check::System { id, version, machine } => call("assert_system", [id, version, machine]),
        Check::FreeSpace { mib } => call("assert_free_space", [mib.to_string()]),
        Check::NewestKernel => call("assert_newest_kernel", [""; 0]),
        Check::Installed { query, packages } => {
            let mut parts = vec!["assert_installed".to_owned(), query.len().to_string()];
            for part in query {
                parts.push(quote(part)?);
            }
            parts.extend(words(packages)?);
            Ok(wrap(&parts))
        }
        Check::Exists { path } => Ok(wrap(&["assert_exists".to_owned(), word(path)?])),
        Check::Gone { paths } => call("assert_gone", paths),
        Check::Contains { path, text } => call("assert_contains", [path, text]),
        Check::Prints { argv, text } => {
            let mut parts = vec!["assert_prints".to_owned(), quote(text)?];
            parts.extend(words(argv)?);
            Ok(wrap(&parts))
        }
        Check::ModuleAbsent { module } => call("assert_module_absent", [module]),
        Check::LibrariesFound { library } => call("assert_libraries_found", [library]),
        Check::Gpus { driver } => call("assert_gpus", [driver]),
        Check::EfaDevices { fi_info } => call("assert_efa_devices", [fi_info]),
        Check::Memlock { user } => call("assert_memlock", [user]),
        Check::Initramfs { path } => call("assert_initramfs", [path]),
        Check::DkmsInstalled => call("assert_dkms_installed", [""; 0]),
    }
}

fn run(command: &Run) -> Result<String> {
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

fn words(argv: &[Word]) -> Result<Vec<String>> {
    argv.iter().map(word).collect()
}

/// A word with its literal parts quoted and its facts as quoted variables.
pub fn word(word: &Word) -> Result<String> {
    let part = |part: &Part| match part {
        Part::Text(text) => quote(text),
        Part::Guest(Fact::Kernel) => Ok("\"$KERNEL\"".to_owned()),
        Part::Guest(Fact::Jobs) => Ok("\"$JOBS\"".to_owned()),
        Part::Guest(Fact::Gpus) => Ok("\"$GPUS\"".to_owned()),
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
