//! Owns how tests run efa-gen against the cloud: each with a folder and a region of its own, so that tests run side by side
//! and each sees its own account. Knows calls.py by its words, and no test.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::image::image_before;
use crate::machine::{
    Guest, Ran, SCRIPT, assert_same, base_image, beside, cloud, exclusive, on_network, once, ran, rendered, resources,
    steer, text, try_call, try_call_as, wait_for,
};

/// The account in one region, and the files of one user.
pub struct Account {
    /// The region.
    pub region: &'static str,
    folder: PathBuf,
    /// The access key of a user who may not do everything.
    key: Option<String>,
    /// Held while a test has the region to itself.
    taken: Option<File>,
}

/// Regions for tests that need one of their own, whichever it is. Each has the type of a builder, the first fourteen have a
/// cluster's as well.
const REGIONS: [&str; 21] = [
    "us-east-2",
    "us-west-1",
    "ca-central-1",
    "eu-central-1",
    "eu-west-2",
    "eu-south-1",
    "ap-south-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-east-1",
    "sa-east-1",
    "af-south-1",
    "il-central-1",
    "eu-central-2",
    "eu-south-2",
    "ap-south-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "me-central-1",
];

/// How many of them have a cluster's types.
const CLUSTERS: usize = 14;

/// Standard input and output to port 22 of the address and back.
const CARRY: &str = "\
import os, socket, sys, threading
way = socket.create_connection((sys.argv[1].strip(), 22))
def back():
    while data := way.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    way.sendall(data)
";

/// Name of the image that `ready_image` makes.
const READY: &str = "rehearsal-ready";

/// Name of the image that `Account::cluster_image` makes.
const SEALED: &str = "rehearsal-sealed";

impl Account {
    /// A region of its own, with the types of a cluster.
    pub fn new() -> Self {
        let [one] = Self::for_clusters();
        one
    }

    /// Regions of its own, with the types of a cluster.
    pub fn for_clusters<const N: usize>() -> [Self; N] {
        Self::several(&REGIONS[..CLUSTERS])
    }

    /// Regions of its own, in which builds are made.
    pub fn for_builds<const N: usize>() -> [Self; N] {
        Self::several(&REGIONS)
    }

    /// Whoever needs several takes all at once, and waits until so many are free: so no test waits for one that waits for it.
    /// The last come first, so that those with the types of a cluster are left for clusters.
    fn several<const N: usize>(regions: &[&'static str]) -> [Self; N] {
        loop {
            let choosing = exclusive("regions");
            let free: Vec<_> =
                regions.iter().rev().filter_map(|region| Some((*region, free(region)?))).take(N).collect();
            if let Ok(taken) = <[_; N]>::try_from(free) {
                return taken.map(|(region, taken)| Self::in_folder(region, Some(taken)));
            }
            drop(choosing);
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// This region, alone.
    pub fn alone_in(region: &'static str) -> Self {
        Self::in_folder(region, Some(exclusive(&format!("region-{region}"))))
    }

    /// us-east-1, where the guests of all tests are, or a region that there is not.
    pub fn shared(region: &'static str) -> Self {
        Self::in_folder(region, None)
    }

    fn in_folder(region: &'static str, taken: Option<File>) -> Self {
        // Each test is a process of its own, and has files of its own.
        let folder = cloud().join(format!("accounts-{}", std::process::id())).join(region);
        fs::create_dir_all(folder.join("home")).expect("a folder can be made");
        Account { region, folder, key: None, taken }
    }

    /// A file of this test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// efa-gen as this user, with nothing between it and the API.
    pub fn efa_gen(&self, arguments: &[impl AsRef<str>]) -> Command {
        let mut line = vec![env!("CARGO_BIN_EXE_efa-gen")];
        line.extend(arguments.iter().map(AsRef::as_ref));
        self.at_home(&line)
    }

    /// efa-gen as this user, its calls through calls.py with these options. Their record begins anew.
    pub fn through(&self, options: &[&str], arguments: &[impl AsRef<str>]) -> Command {
        let record = self.file("calls.jsonl");
        let _ = fs::remove_file(&record);
        let (program, record) = (beside("calls.py").display().to_string(), record.display().to_string());
        let mut line = vec![program.as_str(), "--record", &record];
        line.extend(options);
        line.extend(["--", env!("CARGO_BIN_EXE_efa-gen")]);
        line.extend(arguments.iter().map(AsRef::as_ref));
        self.at_home(&line)
    }

    fn at_home(&self, line: &[&str]) -> Command {
        // What leads onto the network sets the key that may do everything.
        let key = self.key.as_ref().map(|key| format!("AWS_ACCESS_KEY_ID={key}"));
        let before = key.iter().flat_map(|key| ["env", key]);
        let mut command = on_network(&before.chain(line.iter().copied()).collect::<Vec<&str>>());
        for (name, folder) in [("XDG_STATE_HOME", "state"), ("XDG_CACHE_HOME", "cache"), ("HOME", "home")] {
            command.env(name, self.file(folder));
        }
        command
    }

    /// From now on this user's efa-gen may do what a policy allows, and nothing else; what was judged before is forgotten.
    pub fn limit(&mut self, policy: &Value) {
        // Twenty letters and digits, and nobody else's.
        let place = REGIONS.iter().position(|region| *region == self.region).unwrap_or(REGIONS.len());
        let key = format!("AKIA{:012}{place:04}", std::process::id());
        steer("policy", &[&format!("key={key}"), &format!("policy={policy}")]);
        self.key = Some(key);
    }

    /// From now on this user's efa-gen may do everything.
    pub fn unlimit(&mut self) {
        self.key = None;
    }

    /// What the user's policy was asked since it was given: call, request, and whether it is allowed.
    pub fn judged(&self) -> Vec<Value> {
        let key = self.key.as_ref().expect("a limited user");
        serde_json::from_str(&steer("judged", &[&format!("key={key}")])).expect("JSON")
    }

    /// One call of EC2 by the limited user; the answer, or the error code and message.
    pub fn try_as_user(&self, call: &str, arguments: &Value) -> Result<Value, String> {
        try_call_as(self.key.as_ref().expect("a limited user"), "ec2", self.region, call, arguments)
    }

    /// A build of Debian 12 with the stand-in artifacts in this region.
    pub fn build(&self, options: &[&str], more: &[&str]) -> Command {
        self.through(options, &self.words(&[&["--ssh-cidr", "10.78.0.1/32"], more].concat()))
    }

    /// Its words, without who may connect.
    pub fn words(&self, more: &[&str]) -> Vec<String> {
        let stack = cloud().join("stack.toml").display().to_string();
        let line = ["build", "--distro", "debian12", "--stack", "rehearsal", "--stack-file", &stack];
        let place = ["--mirror", "http://mirror.rehearsal.test", "--region", self.region];
        line.iter().chain(&place).chain(more).map(|word| (*word).to_owned()).collect()
    }

    /// A build from the machine on which all is done but the seal.
    pub fn short_build(&self, options: &[&str], more: &[&str]) -> Command {
        let base = self.ready_image();
        let mut line = vec!["--source-ami", base.as_str()];
        line.extend(more);
        self.build(options, &line)
    }

    /// A build from the machine on which all before this stage is done.
    pub fn half_build(&self, stage: &str) -> Command {
        self.build(&[], &["--source-ami", &self.image_before(stage)])
    }

    /// Goes on with a run.
    pub fn resume(&self, options: &[&str], run: &str) -> Command {
        self.through(options, &["build", "--resume", run])
    }

    /// The calls of the last command that went through calls.py.
    pub fn calls(&self) -> Vec<Value> {
        let lines = fs::read_to_string(self.file("calls.jsonl")).unwrap_or_default();
        lines.lines().map(|line| serde_json::from_str(line).expect("a call")).collect()
    }

    /// The runs that have files here.
    pub fn runs(&self) -> Vec<String> {
        let Ok(folder) = fs::read_dir(self.runs_folder()) else { return Vec::new() };
        let mut runs: Vec<String> =
            folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        runs.sort();
        runs
    }

    /// Where the runs' files are.
    pub fn runs_folder(&self) -> PathBuf {
        self.file("state/efa-gen/runs")
    }

    /// Everything that is in the account, one line each; not the terminated instances.
    pub fn things(&self) -> Vec<String> {
        resources(self.region)
    }

    /// One call that must succeed.
    #[track_caller]
    pub fn call(&self, call: &str, arguments: &Value) -> Value {
        let (service, name) = call.rsplit_once('.').unwrap_or(("ec2", call));
        try_call(service, self.region, name, arguments).unwrap_or_else(|error| panic!("{call} {arguments}: {error}"))
    }

    /// Every instance that there ever was of a run, with its state.
    pub fn instances_of(&self, run: &str) -> Vec<(String, String)> {
        let of_run = json!({"Filters": [{"Name": "tag:efa-gen:run", "Values": [run]}]});
        let found = self.call("describe_instances", &of_run);
        let reservations = found["Reservations"].as_array().cloned().unwrap_or_default();
        let instances = reservations.iter().flat_map(|one| one["Instances"].as_array().cloned().unwrap_or_default());
        instances.map(|one| (text(&one["InstanceId"]), text(&one["State"]["Name"]))).collect()
    }

    /// The images of a run.
    pub fn images_of(&self, run: &str) -> Vec<Value> {
        let of_run = [json!({"Name": "tag:efa-gen:run", "Values": [run]})];
        let found = self.call("describe_images", &json!({"Owners": ["self"], "Filters": of_run}));
        found["Images"].as_array().cloned().unwrap_or_default()
    }

    /// `efa-gen sweep` of one run.
    pub fn sweep(&self, run: &str) -> Ran {
        ran(&mut self.through(&[], &["sweep", "--region", self.region, "--run", run, "--older-than", "0s", "--yes"]))
    }

    /// `efa-gen image rm`.
    pub fn remove_image(&self, image: &str, more: &[&str]) -> Ran {
        let mut line = vec!["image", "rm", image, "--region", self.region, "--yes"];
        line.extend(more);
        ran(&mut self.through(&[], &line))
    }

    /// The machine on which all is done but the seal, as an image of this region: a build from it takes a minute.
    pub fn ready_image(&self) -> String {
        self.copied(READY, &ready_image())
    }

    /// The machine on which all before this stage is done, as an image of this region.
    pub fn image_before(&self, stage: &str) -> String {
        self.copied(&format!("rehearsal-before-{stage}"), &image_before(stage))
    }

    /// The ready machine sealed, as an image of this region that looks as if `efa-gen build` had published it: for clusters.
    pub fn cluster_image(&self) -> String {
        let image = self.copied(SEALED, &sealed_image());
        let said = ran(&mut self.efa_gen(&plan_words())).good();
        let plan = said.lines().find_map(|line| line.strip_prefix("plan ")).expect("the plan's digest");
        let tags = [
            ("Name", SEALED),
            ("efa-gen:run", "20260101-000000-5ea1"),
            ("efa-gen:version", env!("CARGO_PKG_VERSION")),
            ("efa-gen:distribution", "debian12"),
            ("efa-gen:stack", "rehearsal"),
            ("efa-gen:plan", plan.trim()),
            ("efa-gen:base-ami", &base_image()),
            ("efa-gen:state", "published"),
        ];
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        self.call("create_tags", &json!({"Resources": [image], "Tags": tags}));
        image
    }

    /// An image of us-east-1 in this region, copied when first asked for.
    pub fn copied(&self, name: &str, source: &str) -> String {
        if self.region == "us-east-1" {
            return source.to_owned();
        }
        if let Some(image) = self.image_named(name) {
            return image;
        }
        let copy = json!({"Name": name, "SourceImageId": source, "SourceRegion": "us-east-1"});
        let image = text(&self.call("copy_image", &copy)["ImageId"]);
        self.wait_for_image(&image);
        image
    }

    /// An instance profile, and a PATH with an `aws` of ours: the AWS CLI and its plugin are a program that carries bytes, and
    /// here it carries them to the instance's address.
    pub fn session_manager(&self) -> (String, String) {
        let profile = format!("rehearsal-{}-{}", self.region, std::process::id());
        self.call("iam.create_instance_profile", &json!({"InstanceProfileName": profile}));
        let bin = self.file("bin");
        fs::create_dir_all(&bin).expect("a folder can be made");
        let text = format!(
            "#!/bin/sh\n[ \"$1 $2 $3 $4 $5\" = 'ssm start-session --region {} --target' ] || exit 2\n\
             [ \"$7 $8 $9\" = '--document-name AWS-StartSSHSession --parameters' ] || exit 2\n\
             exec python3 {} \"$(cat {}/guests/$6/address)\"\n",
            self.region,
            bin.join("carry.py").display(),
            cloud().display()
        );
        for name in ["aws", "session-manager-plugin"] {
            fs::write(bin.join(name), &text).expect("a file can be written");
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        }
        fs::write(bin.join("carry.py"), CARRY).expect("a file can be written");
        (profile, format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH")))
    }

    /// An own image of this region whose machines are light hosts: they answer SSH, but nothing boots there.
    pub fn light_image(&self) -> String {
        steer("light-image", &[&format!("region={}", self.region)]).trim().to_owned()
    }

    fn image_named(&self, name: &str) -> Option<String> {
        let named = json!({"Owners": ["self"], "Filters": [{"Name": "name", "Values": [name]}]});
        self.call("describe_images", &named)["Images"].get(0).map(|image| text(&image["ImageId"]))
    }

    /// Waits until an image is available.
    pub fn wait_for_image(&self, image: &str) {
        wait_for("the image", 240, || {
            let found = self.call("describe_images", &json!({"ImageIds": [image]}));
            (found["Images"][0]["State"] == "available").then_some(())
        });
    }

    /// The run's one image is published; it is removed again, and the account is as it was before.
    #[track_caller]
    pub fn published_then_removed(&self, run: &str, before: &[String]) {
        let images = self.images_of(run);
        assert_eq!(images.len(), 1, "one image of {run}: {images:?}");
        assert_eq!(
            (tag(&images[0], "efa-gen:state"), text(&images[0]["State"])),
            ("published".into(), "available".into())
        );
        self.remove_image(&text(&images[0]["ImageId"]), &[]).good();
        assert_same(before, &self.things());
    }

    /// What no run may leave on this machine but in files of its own while it lasts.
    #[track_caller]
    pub fn keeps_no_secret(&self) {
        for path in files_below(&self.folder) {
            let bytes = fs::read(&path).unwrap_or_default();
            let secret = String::from_utf8_lossy(&bytes).contains("PRIVATE KEY");
            assert!(!secret, "{} holds a private key", path.display());
        }
    }
}

/// The region's lock, if it is free and no test has failed there: a failed test may leave resources behind.
fn free(region: &str) -> Option<File> {
    let locks = cloud().join("locks");
    let file = File::create(locks.join(format!("region-{region}"))).expect("a file can be made");
    (!locks.join(format!("left-{region}")).exists() && file.try_lock().is_ok()).then_some(file)
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.taken.is_some() && std::thread::panicking() {
            fs::write(cloud().join("locks").join(format!("left-{}", self.region)), "").expect("a file can be written");
        }
    }
}

/// Made once for all regions, in us-east-1.
fn ready_image() -> String {
    once("ready", || {
        let guest = Guest::launch(&base_image(), "");
        guest.give_script(&rendered("script", &[]));
        guest.root(&format!("bash {SCRIPT} --start")).good();
        guest.wait_until_complete(600);
        guest.shut_down();
        guest.keep(READY)
    })
}

/// The ready machine, sealed. Made once for all regions, in us-east-1.
fn sealed_image() -> String {
    once("sealed", || {
        let guest = Guest::launch(&ready_image(), "");
        guest.root(&format!("bash {SCRIPT} --stage seal")).good();
        guest.shut_down();
        guest.keep(SEALED)
    })
}

/// `efa-gen plan` of what the guests are installed with.
fn plan_words() -> Vec<String> {
    let stack = cloud().join("stack.toml").display().to_string();
    let line = ["plan", "--distro", "debian12", "--stack", "rehearsal", "--stack-file", &stack];
    let mirror = ["--mirror", "http://mirror.rehearsal.test"];
    line.iter().chain(&mirror).map(|word| (*word).to_owned()).collect()
}

/// Every file below a folder; what goes while one looks is left out.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// A file's permissions.
pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o7777)
}

/// A resource's tag; empty if it has none of this name.
pub fn tag(resource: &Value, key: &str) -> String {
    let tags = resource["Tags"].as_array().cloned().unwrap_or_default();
    tags.iter().find(|tag| tag["Key"] == key).map_or(String::new(), |tag| text(&tag["Value"]))
}

/// Whether a recorded call changes anything.
pub fn changes(call: &Value) -> bool {
    let action = text(&call["action"]);
    call["dry"] == false && !["Describe", "Get", "List"].iter().any(|begin| action.starts_with(begin))
}
