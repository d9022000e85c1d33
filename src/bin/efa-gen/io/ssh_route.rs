//! Owns what ssh takes of the caller's own: of the configuration the way to a host, of the environment what ssh itself
//! needs. Keys, agents, variables to send, commands to run and whom to believe are never the caller's.

use std::ffi::OsString;
use std::process::Stdio;

use efa_gen::error::{Class, Error, Result};
use efa_gen::shell::quote;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::timeouts;

/// Keywords of ssh's configuration that lead to a host, and weaken nothing: what answers at the way's end must have the
/// host's key. `proxyjump` is apart.
const WAY: [&str; 7] =
    ["addressfamily", "bindaddress", "bindinterface", "hostname", "port", "proxycommand", "proxyusefdpass"];

/// Their values where nothing is configured.
const DEFAULTS: [&str; 4] = ["any", "none", "22", "no"];

/// What is read of an answer at most, bytes.
const ANSWER: u64 = 256 << 10;

/// And quoted of each of its last lines, characters.
const LINE: usize = 1000;

/// How many of them are quoted: the first names what the last counts.
const LAST: usize = 3;

/// ssh's own exit status where it failed itself.
const SSH_FAILED: i32 = 255;

/// The way from here to a host.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// Options of ssh.
    pub options: Vec<String>,
    /// Whether a program other than ssh carries the connection.
    pub needs_credentials: bool,
}

/// Asks ssh how the caller's configuration leads to a host: jump hosts, proxies, ports, addresses of this machine.
///
/// Errors: there is no `ssh`; it can't read the configuration.
pub async fn route(user: &str, address: &str) -> Result<Route> {
    let mut command = Command::new("ssh");
    command.args(["-G", "-T", &format!("{user}@{address}")]).env_clear().envs(environment(false));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(not_started)?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let asked = async {
        let (output, errors) = tokio::join!(read_some(output), read_some(errors));
        (output, errors, child.wait().await)
    };
    let failed = |why: String| Error::new(Class::Io, "ssh can't read your configuration").with_source(why);
    match tokio::time::timeout(timeouts::SSH_ROUTE, asked).await {
        Err(_) => Err(failed(format!("no answer of `ssh -G` within {} s", timeouts::SSH_ROUTE.as_secs()))),
        Ok((_, errors, Ok(status))) if status.code() == Some(SSH_FAILED) => Err(failed(last_lines(&errors))),
        Ok((output, _, _)) => read_route(&output, address),
    }
}

/// That the program is not there, or can't be run.
pub fn not_started(error: std::io::Error) -> Error {
    Error::new(Class::Io, "could not start ssh").with_source(error).hint("install OpenSSH's client")
}

async fn read_some(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What can't be read any more was cut off by the end of ssh, which its exit status tells.
        let _ = pipe.take(ANSWER).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LAST));
    let said: Vec<String> = last.map(|line| line.chars().take(LINE).collect()).collect();
    if said.is_empty() { "it does not say why".to_owned() } else { said.join("\n") }
}

/// Reads what `ssh -G` prints: a keyword in small letters and its value on each line.
fn read_route(said: &str, address: &str) -> Result<Route> {
    let mut route = Route::default();
    for (keyword, value) in said.lines().filter_map(|line| line.split_once(' ')) {
        if keyword == "proxyjump" && value != "none" {
            route.options.push(format!("-oproxycommand={}", jump_line(value)?));
        }
        if !WAY.contains(&keyword) || DEFAULTS.contains(&value) {
            continue;
        }
        match keyword {
            "hostname" if value.eq_ignore_ascii_case(address) => continue,
            // `%` begins a token there.
            "hostname" => route.options.push(format!("-ohostname={}", value.replace('%', "%%"))),
            _ => route.options.push(format!("-o{keyword}={value}")),
        }
        route.needs_credentials |= keyword == "proxycommand";
    }
    Ok(route)
}

/// The command of a jump as ssh makes it of `ProxyJump`: the last host is logged in to through those before it. It reads the
/// caller's configuration, because the jump hosts are the caller's own.
fn jump_line(jump: &str) -> Result<String> {
    let (before, last) = jump.rsplit_once(',').map_or((None, jump), |(before, last)| (Some(before), last));
    let (user, place) = last.rsplit_once('@').map_or((None, last), |(user, place)| (Some(user), place));
    // ssh puts brackets around an address of numbers.
    let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let mut line = "ssh".to_owned();
    for (flag, value) in [("-l", user), ("-p", port), ("-J", before)] {
        if let Some(value) = value {
            line += &format!(" {flag} {}", quote(value)?.replace('%', "%%"));
        }
    }
    Ok(format!("{line} -W '[%h]:%p' -- {}", quote(host)?.replace('%', "%%")))
}

/// The caller's variables that ssh is started with. An agent is a jump host's, never a guest's.
const ENVIRONMENT: [&str; 19] = [
    "DISPLAY",
    "HOME",
    "KRB5CCNAME",
    "KRB5_CONFIG",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "SSH_ASKPASS",
    "SSH_ASKPASS_REQUIRE",
    "SSH_AUTH_SOCK",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// What a program that carries the connection needs besides, in capitals: Session Manager's is the AWS CLI, and so may be
/// the caller's own. ssh has these variables then, and sends none: it reads no configuration that could say so.
const OF_PROGRAMS: [&str; 10] = [
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
];

/// The variables for ssh; `credentials` where a program other than ssh carries the connection.
pub fn environment(credentials: bool) -> Vec<(OsString, OsString)> {
    let wanted = |name: &OsString| {
        let Some(name) = name.to_str() else { return false };
        ENVIRONMENT.contains(&name)
            || name.starts_with("LC_")
            || credentials && (name.starts_with("AWS_") || OF_PROGRAMS.contains(&name.to_ascii_uppercase().as_str()))
    };
    std::env::vars_os().filter(|(name, _)| wanted(name)).collect()
}
