//! Owns builds against a stub of AWS: an account in which a run finds its image made, a mirror with a signed installer, and a
//! folder to run in. Knows nothing of what is tested.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::account::{Account, Entry};
use super::aws::{Answer, Params, Stub, done, is_dry, refuse};
use super::http::{Reply, Server};
use super::pgp::{bytes, fingerprint};
use super::{Ran, command, scratch};

pub const IMAGE: &str = "ami-00000001";
pub const BASE: &str = "ami-0a0a0a0a";

/// What EC2 says of [`BASE`].
pub const BASE_IMAGE: &str = "<imagesSet><item><imageId>ami-0a0a0a0a</imageId><name>base</name><imageState>available</imageState><architecture>x86_64</architecture><enaSupport>true</enaSupport><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs><snapshotId>snap-0</snapshotId><volumeSize>8</volumeSize></ebs></item></blockDeviceMapping></item></imagesSet>";

/// The one type that EC2 has.
const TYPE: &str = "<instanceTypeSet><item><instanceType>c5.4xlarge</instanceType><hypervisor>nitro</hypervisor><vCpuInfo><defaultVCpus>16</defaultVCpus></vCpuInfo><processorInfo><supportedArchitectures><item>x86_64</item></supportedArchitectures></processorInfo></item></instanceTypeSet>";

/// What a type with one EFA device has besides.
pub const EFA: &str = "<networkInfo><efaSupported>true</efaSupported><efaInfo><maximumEfaInterfaces>1</maximumEfaInterfaces></efaInfo><maximumNetworkCards>1</maximumNetworkCards></networkInfo>";

/// What a type has besides with GPUs, several EFA devices and placement groups: a gate of it needs every kind of resource.
pub const LARGE: &str = "<networkInfo><efaSupported>true</efaSupported><efaInfo><maximumEfaInterfaces>4</maximumEfaInterfaces>\
    </efaInfo><maximumNetworkCards>4</maximumNetworkCards></networkInfo><gpuInfo><gpus><item><count>8</count></item></gpus>\
    </gpuInfo><placementGroupInfo><supportedStrategies><item>cluster</item></supportedStrategies></placementGroupInfo>";

/// That type with something besides.
pub fn type_with(more: &str) -> String {
    TYPE.replace("</item></instanceTypeSet>", &format!("{more}</item></instanceTypeSet>"))
}

/// An account, what goes wrong in it, and where builds run.
pub struct Stage {
    pub folder: TempDir,
    mirror: Server,
    pub account: Account,
    pub stub: Stub,
}

type Odd = dyn Fn(&Account, &str, &Params) -> Option<Answer> + Send + Sync;

impl Stage {
    pub fn new(odd: impl Fn(&Account, &str, &Params) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let folder = scratch();
        stack_file(folder.path());
        let mirror = Server::start(|asked| match asked.path.rsplit('/').next().unwrap_or_default() {
            "our-efa-1.50.0.tar.gz" => Reply::file(asked, &bytes("efa.tar.gz"), "\"one\""),
            "our-efa-1.50.0.tar.gz.sig" => Reply::new(200, &bytes("good.sig")),
            _ => Reply::new(200, &bytes("good.asc")),
        });
        let image = Entry {
            snapshots: vec!["snap-1".into()],
            imds_v2: true,
            instance: "i-0builder".into(),
            ..Entry::new(IMAGE, "", "2025-01-01T00:00:00.000Z")
        };
        let snapshot = Entry {
            description: format!("Created by CreateImage(i-0builder) for {IMAGE}"),
            ..Entry::new("snap-1", "", "2025-01-01T00:00:00.000Z")
        };
        let tagged =
            |entry: Entry| entry.tag("efa-gen:state", "building").tag("efa-gen:plan", "abc").tag("team", "hpc");
        let account = Account::new([tagged(image), tagged(snapshot)]);
        let (odd, answers, parameters): (Box<Odd>, _, _) = (Box::new(odd), account.clone(), Parameters::default());
        let asked = Asked::default();
        let stub = Stub::start(move |action, params| {
            asked.adopt(&answers, action, params);
            let more = || preflight(action, params).or_else(|| parameters.answer(action, params));
            odd(&answers, action, params).or_else(more).unwrap_or_else(|| answer(&answers, action, params))
        });
        Stage { folder, mirror, account, stub }
    }

    pub fn good() -> Self {
        Stage::new(|_, _, _| None)
    }

    pub fn build(&self, more: &[&str]) -> Ran {
        ran(&mut self.build_command("debian12", more))
    }

    /// Where the installer lies that `stack.toml` names.
    pub fn mirror(&self) -> String {
        format!("{}/efa", self.mirror.url)
    }

    /// The first hex digit behind this in `stack.toml` becomes another one.
    pub fn forge(&self, key: &str) {
        let stack = self.folder.path().join("stack.toml");
        let text = fs::read_to_string(&stack).expect("the stack file");
        let at = text.find(key).expect("it is there") + key.len();
        let other = if text[at..].starts_with('0') { "1" } else { "0" };
        fs::write(&stack, format!("{}{other}{}", &text[..at], &text[at + 1..])).expect("a file");
    }

    /// A build, not yet started.
    pub fn build_command(&self, distribution: &str, more: &[&str]) -> Command {
        let mirror = self.mirror();
        let flags = ["build", "--distro", distribution, "--source-ami", BASE, "--stack-file", "stack.toml", "--mirror"];
        self.command(&[&flags[..], &[mirror.as_str(), "--ssh-cidr", "203.0.113.7/32"], more].concat())
    }

    pub fn sweep(&self, more: &[&str]) -> Ran {
        self.run(&[&["sweep", "--yes"], more].concat())
    }

    /// Any command, where builds run.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        ran(&mut self.command(arguments))
    }

    /// The same, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        self.stub.set(&mut command);
        command.current_dir(self.folder.path()).env("HOME", self.folder.path());
        command
    }

    /// Where its runs have their files.
    pub fn runs(&self) -> PathBuf {
        self.folder.path().join(".local/state/efa-gen/runs")
    }

    pub fn image(&self, id: &str) -> Entry {
        let entries = self.account.0.lock().expect("the account");
        entries.iter().find(|entry| entry.id == id).cloned().unwrap_or_else(|| panic!("no {id}"))
    }

    /// Position of a call in all calls.
    pub fn at(&self, action: &str) -> Option<usize> {
        self.stub.actions().iter().rposition(|name| name == action)
    }
}

pub fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("it starts");
    let code = output.status.code().unwrap_or(-1);
    Ran { code, stdout: super::stdout(&output), stderr: super::stderr(&output) }
}

/// A stack file whose EFA installer is the OpenPGP fixture.
fn stack_file(folder: &Path) {
    use sha2::Digest;
    let sha256: String = sha2::Sha256::digest(bytes("efa.tar.gz")).iter().map(|byte| format!("{byte:02x}")).collect();
    let url = "https://downloads.example/our-efa-1.50.0.tar.gz";
    let signer = format!("fingerprint = \"{}\", key = \"https://keys.example/team.asc\"", fingerprint("good"));
    let download = format!("url = \"{url}\", sha256 = \"{sha256}\", published = \"us\"");
    let text = format!("[[efa]]\nversion = \"1.50.0\"\ndownload = {{ {download} }}\nsigner = {{ {signer} }}\n");
    fs::write(folder.join("stack.toml"), text).expect("a file");
}

/// Everything that a build asks before it looks for its own image.
fn preflight(action: &str, params: &Params) -> Option<Answer> {
    let get = |name: &str| params.get(name).map(String::as_str).unwrap_or_default();
    if is_dry(params) {
        return Some(refuse("DryRunOperation", "Request would have succeeded."));
    }
    let body = match action {
        "GetCallerIdentity" => {
            "<GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/u</Arn><Account>111122223333</Account></GetCallerIdentityResult>"
        }
        "GetServiceQuota" => return Some((400, r#"{"__type": "AccessDeniedException"}"#.into())),
        "DescribeInstanceTypes" => TYPE,
        "DescribeInstanceTypeOfferings" => {
            "<instanceTypeOfferingSet><item><location>us-east-1b</location></item></instanceTypeOfferingSet>"
        }
        "DescribeSubnets" => {
            "<subnetSet><item><subnetId>subnet-0</subnetId><vpcId>vpc-0</vpcId><availabilityZone>us-east-1b</availabilityZone><availableIpAddressCount>9</availableIpAddressCount></item></subnetSet>"
        }
        "DescribeRouteTables" => {
            "<routeTableSet><item><routeSet><item><destinationCidrBlock>0.0.0.0/0</destinationCidrBlock><gatewayId>igw-0</gatewayId></item></routeSet></item></routeTableSet>"
        }
        "DescribeImages" if get("ImageId.1") == BASE => BASE_IMAGE,
        _ => return None,
    };
    Some(done(action, body))
}

/// Parameter Store.
#[derive(Default)]
struct Parameters(Mutex<std::collections::BTreeMap<String, String>>);

impl Parameters {
    fn answer(&self, action: &str, params: &Params) -> Option<Answer> {
        let key = format!("{} {}", params["Region"], params.get("Name").map(String::as_str).unwrap_or_default());
        let mut all = self.0.lock().expect("the parameters");
        match (action, all.get(&key)) {
            ("GetParameter", Some(value)) => Some((200, format!(r#"{{"Parameter": {{"Value": "{value}"}}}}"#))),
            ("GetParameter", None) => Some((400, r#"{"__type": "ParameterNotFound", "message": "no"}"#.into())),
            ("PutParameter", _) => {
                all.insert(key, params["Value"].clone());
                Some((200, r#"{"Version": 1}"#.into()))
            }
            _ => None,
        }
    }
}

/// What a build asks for in its preflight.
#[derive(Default)]
struct Asked(Mutex<[String; 2]>);

impl Asked {
    /// Makes what has an empty run the run's that asks: of its plan, made just now, and an image of its name if that is ours.
    fn adopt(&self, account: &Account, action: &str, params: &Params) {
        let get = |name: &str| params.get(name).map(String::as_str).unwrap_or_default();
        let mut asked = self.0.lock().expect("what is asked for");
        let [name, plan] = &mut *asked;
        if action == "DescribeImages" && get("Filter.1.Name") == "name" {
            get("Filter.1.Value.1").clone_into(name);
        }
        if action == "RunInstances"
            && is_dry(params)
            && let Some(value) = tags_of(params).remove("efa-gen:plan")
        {
            *plan = value;
        }
        if get("Filter.1.Name") != "tag:efa-gen:run" {
            return;
        }
        let mut entries = account.0.lock().expect("the account");
        for entry in entries.iter_mut().filter(|entry| entry.tags.get("efa-gen:run").is_some_and(String::is_empty)) {
            if !entry.name.starts_with("theirs") {
                entry.name.clone_from(name);
            }
            entry.created = jiff::Timestamp::now().to_string();
            let run = get("Filter.1.Value.1");
            for (tag, value) in [("Name", name.as_str()), ("efa-gen:plan", plan), ("efa-gen:run", run)] {
                entry.tags.insert(tag.into(), value.into());
            }
        }
    }
}

/// The account, and copies of its images.
pub fn answer(account: &Account, action: &str, params: &Params) -> Answer {
    let get = |name: &str| params.get(name).cloned().unwrap_or_default();
    let mut entries = account.0.lock().expect("the account");
    if action == "CopyImage" {
        let region = get("Region");
        let source = entries.iter().find(|entry| entry.id == get("SourceImageId")).cloned().expect("the source");
        let snapshot = format!("snap-{}", region.replace('-', ""));
        let id = format!("ami-{}", region.replace('-', ""));
        let description =
            format!("Copied for DestinationAmi {id} from SourceAmi {} for SourceSnapshot snap-1.", source.id);
        let from = Some((get("SourceRegion"), source.id.clone()));
        let (id_of_copy, snapshots, instance) = (id.clone(), vec![snapshot.clone()], String::new());
        let mut copy =
            Entry { id: id_of_copy, region, snapshots, imds_v2: false, instance, source: from, description, ..source };
        // A tag that was lost on the way.
        copy.tags.remove("team");
        entries.push(Entry { tags: Params::new(), id: snapshot, ..copy.clone() });
        entries.push(copy);
        return done(action, &format!("<imageId>{id}</imageId>"));
    }
    drop(entries);
    account.answer(action, params)
}

/// Launches `i-1`, `i-2`, ... and answers a token that it knows with `again`; the console is closed.
pub fn machines(again: impl Fn() -> Answer + Send + Sync + 'static) -> Stage {
    odd_machines(again, |_, _| None)
}

/// The same, where `odd` is asked first.
pub fn odd_machines(
    again: impl Fn() -> Answer + Send + Sync + 'static,
    odd: impl Fn(&str, &Params) -> Option<Answer> + Send + Sync + 'static,
) -> Stage {
    let launched = AtomicUsize::new(0);
    let tokens = Mutex::new(Vec::new());
    Stage::new(move |account, action, params| {
        if let Some(answer) = odd(action, params) {
            return Some(answer);
        }
        let body = match action {
            _ if is_dry(params) => return None,
            "ImportKeyPair" | "AuthorizeSecurityGroupIngress" | "AuthorizeSecurityGroupEgress" => {
                "<return>true</return>"
            }
            "CreateSecurityGroup" => "<groupId>sg-1</groupId>",
            "DescribeSecurityGroups" if params["Filter.1.Name"] == "group-name" => {
                "<securityGroupInfo><item><groupId>sg-1</groupId></item></securityGroupInfo>"
            }
            "GetConsoleOutput" => return Some(refuse("UnauthorizedOperation", "No.")),
            "RunInstances" => {
                let token = params["ClientToken"].clone();
                let mut tokens = tokens.lock().expect("the tokens");
                if tokens.contains(&token) {
                    return Some(again());
                }
                tokens.push(token);
                let id = format!("i-{}", launched.fetch_add(1, Ordering::SeqCst) + 1);
                account.0.lock().expect("the account").push(instance(&id, params));
                return Some(done(action, &answered(&id, "pending")));
            }
            _ => return None,
        };
        Some(done(action, body))
    })
}

fn answered(id: &str, state: &str) -> String {
    let state = format!("<instanceState><name>{state}</name></instanceState>");
    format!("<instancesSet><item><instanceId>{id}</instanceId>{state}</item></instancesSet>")
}

fn tags_of(params: &Params) -> std::collections::BTreeMap<String, String> {
    let tags = (1_u32..).map_while(|n| {
        let tag = |end: &str| params.get(&format!("TagSpecification.1.Tag.{n}.{end}")).cloned();
        Some((tag("Key")?, tag("Value")?))
    });
    tags.collect()
}

fn instance(id: &str, params: &Params) -> Entry {
    let token = params["ClientToken"].clone();
    Entry { tags: tags_of(params), token, ..Entry::new(id, "", &jiff::Timestamp::now().to_string()) }
}

/// Starts a command whose clean-up comes to no end, interrupts it when it has said `first`, and again at `then`. Returns
/// its exit code, and what it said of the clean-up.
pub fn interrupted_twice(stage: &Stage, command: &mut Command, first: &str, then: &str) -> (i32, String) {
    let path = stage.folder.path().join("said");
    let said = || fs::read_to_string(&path).unwrap_or_default();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&path).expect("a file"));
    let mut started = command.spawn().expect("it starts");
    for words in [first, then] {
        let end = Instant::now() + Duration::from_secs(60);
        while !said().contains(words) {
            assert!(Instant::now() < end && started.try_wait().expect("a status").is_none(), "{words}: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        let id = started.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    }
    let code = started.wait().expect("it ends").code().expect("a code");
    let line = said().lines().find(|line| line.contains("interrupted again")).map(str::to_owned);
    (code, line.unwrap_or_else(|| panic!("{}", said())))
}

#[track_caller]
pub fn assert_ran(ran: &Ran, code: i32, says: &[&str]) {
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    for text in says {
        assert!(ran.stderr.contains(text), "does not say {text:?}:\n{}", ran.stderr);
    }
}
