//! Owns how tests speak with the rehearsal cloud: EC2 calls, guests, commands over SSH, and what a guest's file system
//! holds. Knows nothing of what is tested.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// Where an install script lies on a guest.
pub const SCRIPT: &str = "/root/install.sh";

/// What a command gave.
pub struct Ran {
    /// Exit code, or -1.
    pub code: i32,
    /// stdout and stderr.
    pub text: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Ran { code: output.status.code().unwrap_or(-1), text: text.into_owned() }
    }

    /// What it said; it must have succeeded.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, 0, "{}", self.text);
        self.text
    }

    /// It must have failed with this code and said all of these.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> String {
        assert_eq!(self.code, code, "{}", self.text);
        for word in words {
            assert!(self.text.contains(word), "does not say {word:?}:\n{}", self.text);
        }
        self.text
    }
}

/// The running cloud's folder.
pub fn cloud() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::var_os("EFA_GEN_REHEARSAL");
        PathBuf::from(folder.expect("EFA_GEN_REHEARSAL names a running cloud: start this by tests/rehearsal/run"))
    })
}

/// Waits until no other test holds this name, and holds it as long as the value lives. Tests are processes of their own.
pub fn exclusive(name: &str) -> File {
    let folder = cloud().join("locks");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let file = File::create(folder.join(name)).expect("a file can be made");
    file.lock().expect("it can be locked");
    file
}

/// What is made once for all tests of this cloud, by the first that needs it, while the others wait; told as text. What has
/// failed once has failed for all.
pub fn once(name: &str, make: impl FnOnce() -> String) -> String {
    let _alone = exclusive(name);
    let made = cloud().join("locks").join(format!("{name}.made"));
    if let Ok(text) = fs::read_to_string(&made) {
        assert!(!text.is_empty(), "{name} has failed already, see the other test");
        return text;
    }
    fs::write(&made, "").expect("a file can be written");
    let text = make();
    fs::write(&made, &text).expect("a file can be written");
    text
}

/// A file below tests/rehearsal.
pub fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rehearsal").join(name)
}

/// A command on the cloud's network.
pub fn on_network<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(cloud().join("enter"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The answer of the cloud's control socket (cloud/control_socket.py), or what was refused.
fn ask(request: &Value) -> Result<Value, String> {
    let mut socket = UnixStream::connect(cloud().join("control")).expect("the cloud's control socket answers");
    socket.write_all(format!("{request}\n").as_bytes()).expect("the cloud reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("the cloud answers");
    let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer["ok"].clone()),
    }
}

/// Runs it to its end.
pub fn ran(command: &mut Command) -> Ran {
    Ran::of(&command.output().expect("the command starts"))
}

/// One call of a service in a region by its boto3 name; the answer, or AWS's error code and message.
pub fn try_call(service: &str, region: &str, call: &str, arguments: &Value) -> Result<Value, String> {
    ask(&json!({"do": "call", "service": service, "region": region, "call": call, "arguments": arguments}))
}

/// The same as the caller with this access key.
pub fn try_call_as(key: &str, service: &str, region: &str, call: &str, arguments: &Value) -> Result<Value, String> {
    ask(&json!({"do": "call", "service": service, "region": region, "key": key, "call": call, "arguments": arguments}))
}

/// One EC2 call in us-east-1.
pub fn try_ec2(call: &str, arguments: &Value) -> Result<Value, String> {
    try_call("ec2", "us-east-1", call, arguments)
}

/// One EC2 call in us-east-1 that must succeed.
#[track_caller]
pub fn ec2(call: &str, arguments: &Value) -> Value {
    try_ec2(call, arguments).unwrap_or_else(|error| panic!("{call} {arguments}: {error}"))
}

/// Everything that a region of the account holds, one line each; not the terminated instances.
#[track_caller]
pub fn resources(region: &str) -> Vec<String> {
    let listed = ask(&json!({"do": "list", "region": region})).unwrap_or_else(|error| panic!("{region}: {error}"));
    listed.as_array().expect("a list").iter().map(text).collect()
}

/// What no EC2 call does; each value is NAME=VALUE.
#[track_caller]
pub fn steer(verb: &str, values: &[&str]) -> String {
    let values: serde_json::Map<String, Value> = values
        .iter()
        .map(|value| value.split_once('=').expect("NAME=VALUE"))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let said = ask(&json!({"do": "steer", "verb": verb, "values": values}));
    text(&said.unwrap_or_else(|error| panic!("{verb}: {error}")))
}

/// Renders for Debian 12 with the stand-in artifacts into a folder; returns it.
pub fn rendered(name: &str, more: &[&str]) -> PathBuf {
    let out = cloud().join(format!("rendered-{}", std::process::id())).join(name);
    let stack = cloud().join("stack.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_efa-gen"));
    command.args(["render", "--distro", "debian12", "--stack", "rehearsal", "--format", "all", "--stack-file"]);
    command.arg(stack).args(["--mirror", "http://mirror.rehearsal.test", "--out"]).arg(&out).args(more);
    ran(&mut command).good();
    out
}

/// The base image of Debian 12: the newest of its owner, as the plan's filter finds it.
pub fn base_image() -> String {
    let filters = json!([{"Name": "name", "Values": ["debian-12-amd64-*"]}]);
    let found = ec2("describe_images", &json!({"Owners": ["136693071363"], "Filters": filters}));
    let mut images: Vec<(String, String)> = found["Images"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|image| (text(&image["CreationDate"]), text(&image["ImageId"])))
        .collect();
    images.sort();
    images.pop().expect("there is one").1
}

/// A JSON string's text.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Waits until something is there; panics with `what` when it takes too long.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, found: impl FnMut() -> Option<T>) -> T {
    wait_with_pauses(what, seconds, Duration::from_millis(300), found)
}

/// The same, where a look is dear and what is waited for takes long.
#[track_caller]
fn wait_with_pauses<T>(what: &str, seconds: u64, pause: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let asked = Instant::now();
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "not within {seconds} s: {what}");
        // Most of the machine is left to what is waited for.
        std::thread::sleep((2 * asked.elapsed()).max(pause));
    }
}

/// A booted machine; terminated with the value.
pub struct Guest {
    /// Instance id.
    pub id: String,
    /// Its address.
    pub address: String,
}

impl Guest {
    /// Launches the image and waits until SSH answers with the host key that the console told.
    pub fn launch(image: &str, user_data: &(impl AsRef<[u8]> + ?Sized)) -> Self {
        let guest = Self::start(image, user_data);
        guest.trust();
        guest
    }

    /// Launches the image and returns at once.
    pub fn start(image: &str, user_data: &(impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::start_several(image, user_data, &json!({"MinCount": 1, "MaxCount": 1})).pop().expect("one instance")
    }

    /// Launches several by one call, with more parameters than the image and the user-data, and returns at once.
    pub fn start_several(image: &str, user_data: &(impl AsRef<[u8]> + ?Sized), more: &Value) -> Vec<Self> {
        let mut arguments = json!({
            "ImageId": image, "InstanceType": "c5.4xlarge", "KeyName": "rehearsal",
            "UserData": {"base64": BASE64_STANDARD.encode(user_data)}, "MetadataOptions": {"HttpTokens": "required"},
        });
        arguments.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer = ec2("run_instances", &arguments);
        let launched = answer["Instances"].as_array().expect("a list");
        let guest = |one: &Value| Guest { id: text(&one["InstanceId"]), address: text(&one["PrivateIpAddress"]) };
        launched.iter().map(guest).collect()
    }

    /// Waits for cloud-init to tell the host keys on the console, and trusts these and no others.
    pub fn trust(&self) {
        let keys = wait_for("host keys on the console", 240, || {
            let console = self.console();
            let from = console.rfind("-----BEGIN SSH HOST KEY KEYS-----")?;
            let to = from + console[from..].find("-----END SSH HOST KEY KEYS-----")?;
            Some(console[from..to].lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
        });
        let lines: String = keys.iter().map(|key| format!("{} {}\n", self.address, key.trim())).collect();
        fs::write(self.known_hosts(), lines).expect("a file can be written");
    }

    /// Where the keys are that are trusted.
    pub fn known_hosts(&self) -> PathBuf {
        cloud().join(format!("known_hosts.{}", self.id))
    }

    /// All that came to the console.
    pub fn console(&self) -> String {
        let path = cloud().join("guests").join(&self.id).join("console");
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// A command line as the login user's, by SSH.
    pub fn ssh(&self, line: &str) -> Command {
        let option = |name: &str, value: &str| format!("-o{name}={value}");
        let mut command = on_network(&["timeout", "600", "ssh"]);
        command.arg("-i").arg(cloud().join("key"));
        command.arg(option("UserKnownHostsFile", &self.known_hosts().display().to_string()));
        for (name, value) in [
            ("StrictHostKeyChecking", "yes"),
            ("LogLevel", "ERROR"),
            ("ConnectTimeout", "15"),
            ("ServerAliveInterval", "10"),
            ("BatchMode", "yes"),
            // The default is the dearest that there is, and a test logs in hundreds of times.
            ("KexAlgorithms", "curve25519-sha256"),
        ] {
            command.arg(option(name, value));
        }
        command.arg(format!("admin@{}", self.address)).arg(line);
        command
    }

    /// Runs a command line as root.
    pub fn root(&self, line: &str) -> Ran {
        ran(&mut self.ssh(&format!("sudo bash -c {}", quoted(line))))
    }

    /// Writes a file as root.
    pub fn write(&self, path: &str, mode: &str, content: &[u8]) {
        let line = format!("sudo sh -c {}", quoted(&format!("cat >{path} && chmod {mode} {path}")));
        let mut child = self.ssh(&line).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("ssh starts");
        child.stdin.take().expect("a pipe").write_all(content).expect("ssh reads");
        assert!(child.wait().expect("ssh ends").success(), "{path} is written");
    }

    /// Puts the rendered script on it.
    pub fn give_script(&self, folder: &Path) {
        self.write(SCRIPT, "0755", &fs::read(folder.join("install.sh")).expect("the script"));
    }

    /// Whether SSH answers now.
    pub fn answers(&self) -> bool {
        ran(&mut self.ssh("true")).code == 0
    }

    /// Waits until SSH answers.
    pub fn wait_until_up(&self) {
        wait_for("SSH answers", 240, || self.answers().then_some(()));
    }

    /// Waits until the install is complete, through reboots; a failure on the console ends the wait.
    pub fn wait_until_complete(&self, seconds: u64) {
        // Each look is a login.
        wait_with_pauses(&format!("complete on {}", self.id), seconds, Duration::from_secs(3), || {
            let done = ran(&mut self.ssh("test -e /var/lib/efa-gen/complete")).code == 0;
            assert!(!self.console().contains("FAILED in stage"), "{}", tail(&self.console(), 40));
            done.then_some(())
        });
    }

    /// Cuts the power, whatever it does.
    pub fn cut_power(&self) {
        ec2("stop_instances", &json!({"InstanceIds": [self.id], "Force": true}));
        self.wait_for_state("stopped");
    }

    /// Shuts down properly.
    pub fn shut_down(&self) {
        ec2("stop_instances", &json!({"InstanceIds": [self.id]}));
        self.wait_for_state("stopped");
    }

    /// Boots it again.
    pub fn power_on(&self) {
        ec2("start_instances", &json!({"InstanceIds": [self.id]}));
        self.wait_until_up();
    }

    /// Waits for an instance state.
    pub fn wait_for_state(&self, state: &str) {
        wait_for(state, 240, || {
            let found = ec2("describe_instances", &json!({"InstanceIds": [self.id]}));
            (found["Reservations"][0]["Instances"][0]["State"]["Name"] == state).then_some(())
        });
    }

    /// Makes an image of the stopped machine and waits until it is available.
    pub fn keep(&self, name: &str) -> String {
        let image = text(&ec2("create_image", &json!({"InstanceId": self.id, "Name": name}))["ImageId"]);
        wait_for("the image", 240, || {
            let found = ec2("describe_images", &json!({"ImageIds": [image]}));
            (found["Images"][0]["State"] == "available").then_some(())
        });
        image
    }

    /// Every file with mode, owner and digest, without what no two machines share. With `times`, when they were changed
    /// as well.
    pub fn listing(&self, times: bool) -> Vec<String> {
        self.write("/run/listing.py", "0644", &fs::read(beside("listing.py")).expect("the program"));
        let argument = if times { "times" } else { "" };
        let text = self.root(&format!("python3 /run/listing.py {argument}")).good();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let doing = "ps -eo pid,etime,wchan:20,args --forest; ss -tnp; tail -n 40 /var/log/efa-gen/install.log";
            let doing = self.root(doing).text;
            eprintln!("the last of the console of {}:\n{}\n{doing}", self.id, tail(&self.console(), 25));
        }
        if let Err(error) = try_ec2("terminate_instances", &json!({"InstanceIds": [self.id]})) {
            eprintln!("{} could not be terminated: {error}", self.id);
        }
    }
}

/// The text in single quotes for sh.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Fails with the lines in which two listings differ.
#[track_caller]
pub fn assert_same(one: &[String], other: &[String]) {
    let (first, second): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
        (one.iter().collect(), other.iter().collect());
    let lost: Vec<_> = first.difference(&second).map(|line| format!("- {line}")).collect();
    let new: Vec<_> = second.difference(&first).map(|line| format!("+ {line}")).collect();
    assert!(lost.is_empty() && new.is_empty(), "{}\n{}", lost.join("\n"), new.join("\n"));
}
