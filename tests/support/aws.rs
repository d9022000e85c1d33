//! Owns a stub of AWS on a local port: it answers as a test tells it to, and keeps what it was asked. `Account` is the
//! usual answer, a small account whose things can be listed, tagged and removed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

/// What a call was given, by the names of the query protocol (`Filter.1.Name`), and `Region` from its signature. The calls
/// of Parameter Store have their JSON keys.
pub type Params = BTreeMap<String, String>;

/// Where AWS tells the id of a request.
const REQUEST: &str = "x-amzn-RequestId: req-1";

/// Status and body.
pub type Answer = (u16, String);

/// A running stub; it ends with the test process.
pub struct Stub {
    pub url: String,
    log: Arc<Mutex<Vec<(String, Params)>>>,
}

impl Stub {
    pub fn start(answer: impl Fn(&str, &Params) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (shared, answer) = (Arc::clone(&log), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                thread::spawn(move || drop(serve(&stream, &log, &*answer)));
            }
        });
        Stub { url, log }
    }

    /// The calls of this action, in order.
    pub fn calls(&self, action: &str) -> Vec<Params> {
        let log = self.log.lock().expect("the log");
        log.iter().filter(|(name, _)| name == action).map(|(_, params)| params.clone()).collect()
    }

    /// The names of all calls, in order.
    pub fn actions(&self) -> Vec<String> {
        self.log.lock().expect("the log").iter().map(|(name, _)| name.clone()).collect()
    }

    /// Lets a command speak with this stub instead of AWS.
    pub fn set(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
    }
}

fn serve(
    stream: &TcpStream,
    log: &Mutex<Vec<(String, Params)>>,
    answer: &dyn Fn(&str, &Params) -> Answer,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut headers = BTreeMap::new();
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        line.clear();
    }
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let target = header("x-amz-target");
    let mut params = if target.is_empty() { form(&body) } else { flat(&body) };
    let region = header("authorization").split('/').nth(2).unwrap_or_default().to_owned();
    params.insert("Region".into(), region);
    let named = params.get("Action").cloned().unwrap_or_default();
    let action = target.split_once('.').map_or(named, |(_, action)| action.to_owned());
    log.lock().expect("the log").push((action.clone(), params.clone()));
    let (status, body) = answer(&action, &params);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} Test\r\nContent-Length: {}\r\n{REQUEST}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An `application/x-www-form-urlencoded` body.
fn form(body: &[u8]) -> Params {
    let text = String::from_utf8_lossy(body);
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (plain(name), plain(value)));
    text.split('&').filter_map(pair).collect()
}

fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&hex, 16).expect("two hexadecimal digits")
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The plain values of a JSON body.
fn flat(body: &[u8]) -> Params {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let pair = |(name, value): (&String, &serde_json::Value)| {
        (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    value.as_object().into_iter().flatten().map(pair).collect()
}

/// EC2's way to say no.
pub fn refuse(code: &str, message: &str) -> Answer {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    (400, format!("<Response><Errors>{error}</Errors></Response>"))
}

/// EC2's way to say yes.
pub fn done(action: &str, inner: &str) -> Answer {
    (200, format!("<{action}Response>{inner}</{action}Response>"))
}

/// Something in the account. Fields that its kind does not have are empty.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub id: String,
    pub name: String,
    pub state: String,
    pub region: String,
    pub created: String,
    pub tags: BTreeMap<String, String>,
    pub snapshots: Vec<String>,
    pub protected: bool,
    pub owner: String,
    pub shared: Vec<String>,
}

impl Entry {
    /// The id's prefix says what it is; it is in us-east-1 and has this run's tag.
    pub fn new(id: &str, run: &str, created: &str) -> Self {
        Entry {
            id: id.into(),
            name: format!("name-of-{id}"),
            state: if id.starts_with("i-") { "running" } else { "available" }.into(),
            region: "us-east-1".into(),
            created: created.into(),
            owner: "111122223333".into(),
            ..Entry::default()
        }
        .tag("efa-gen:run", run)
    }

    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.tags.insert(name.into(), value.into());
        self
    }

    fn kind(&self) -> &str {
        self.id.rsplit_once('-').map_or("", |(prefix, _)| prefix)
    }

    fn matches(&self, params: &Params) -> bool {
        let filters = (1_u32..).map_while(|n| {
            let get = |end: &str| params.get(&format!("Filter.{n}.{end}"));
            Some((get("Name")?, get("Value.1")?))
        });
        filters.into_iter().all(|(name, value)| match (name.as_str(), name.strip_prefix("tag:")) {
            (_, Some(key)) => self.tags.get(key) == Some(value),
            ("tag-key", _) => self.tags.contains_key(value),
            ("image-id" | "instance-id", _) => self.id == *value,
            ("name", _) => self.name == *value,
            _ => panic!("the account has no filter {name}"),
        })
    }

    fn xml(&self) -> String {
        let Entry { id, name, state, created, owner, .. } = self;
        let mut tags = String::new();
        for (key, value) in &self.tags {
            let _ = write!(tags, "<item><key>{key}</key><value>{value}</value></item>");
        }
        let tags = format!("<tagSet>{tags}</tagSet>");
        let own = match self.kind() {
            "i" => format!(
                "<instancesSet><item><instanceId>{id}</instanceId><instanceType>c5.large</instanceType>\
                 <instanceState><name>{state}</name></instanceState><launchTime>{created}</launchTime>{tags}</item></instancesSet>"
            ),
            "ami" => {
                let mut blocks = String::new();
                for id in &self.snapshots {
                    let _ = write!(
                        blocks,
                        "<item><deviceName>/dev/xvda</deviceName><ebs><snapshotId>{id}</snapshotId></ebs></item>"
                    );
                }
                let protection = if self.protected { "enabled" } else { "disabled" };
                format!(
                    "<imageId>{id}</imageId><name>{name}</name><imageOwnerId>{owner}</imageOwnerId><imageState>{state}</imageState>\
                     <creationDate>{created}</creationDate><blockDeviceMapping>{blocks}</blockDeviceMapping>\
                     <deregistrationProtection>{protection}</deregistrationProtection>{tags}"
                )
            }
            "snap" => {
                format!("<snapshotId>{id}</snapshotId><status>completed</status><startTime>{created}</startTime>{tags}")
            }
            "vol" => {
                format!("<volumeId>{id}</volumeId><status>{state}</status><createTime>{created}</createTime>{tags}")
            }
            "eipalloc" => format!("<allocationId>{id}</allocationId><publicIp>192.0.2.1</publicIp>{tags}"),
            "key" => {
                format!("<keyPairId>{id}</keyPairId><keyName>{name}</keyName><createTime>{created}</createTime>{tags}")
            }
            "sg" => format!("<groupId>{id}</groupId><groupName>{name}</groupName>{tags}"),
            "pg" => format!("<groupId>{id}</groupId><groupName>{name}</groupName><state>{state}</state>{tags}"),
            kind => panic!("the account has no {kind}"),
        };
        format!("<item>{own}</item>")
    }
}

/// The values of `name.1`, `name.2`, ...
fn numbered<'a>(params: &'a Params, name: &str) -> Vec<&'a String> {
    (1_u32..).map_while(|n| params.get(&format!("{name}.{n}"))).collect()
}

/// The account's things.
#[derive(Debug, Clone, Default)]
pub struct Account(pub Arc<Mutex<Vec<Entry>>>);

impl Account {
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        Account(Arc::new(Mutex::new(entries.into_iter().collect())))
    }

    /// Ids of what is there, terminated instances left out, sorted.
    pub fn ids(&self) -> Vec<String> {
        let entries = self.0.lock().expect("the account");
        let mut ids: Vec<String> = entries.iter().filter(|e| e.state != "terminated").map(|e| e.id.clone()).collect();
        ids.sort();
        ids
    }

    /// The tags of one thing.
    pub fn tags(&self, id: &str) -> BTreeMap<String, String> {
        let entries = self.0.lock().expect("the account");
        entries.iter().find(|entry| entry.id == id).map(|entry| entry.tags.clone()).unwrap_or_default()
    }

    /// What a good AWS answers.
    pub fn answer(&self, action: &str, params: &Params) -> Answer {
        let lists = [
            ("DescribeInstances", "i", "reservationSet"),
            ("DescribeImages", "ami", "imagesSet"),
            ("DescribeSnapshots", "snap", "snapshotSet"),
            ("DescribeVolumes", "vol", "volumeSet"),
            ("DescribeAddresses", "eipalloc", "addressesSet"),
            ("DescribeKeyPairs", "key", "keySet"),
            ("DescribeSecurityGroups", "sg", "securityGroupInfo"),
            ("DescribePlacementGroups", "pg", "placementGroupSet"),
        ];
        if let Some((_, kind, set)) = lists.iter().find(|(name, ..)| *name == action) {
            return self.list(action, kind, set, params);
        }
        let get = |name: &str| params.get(name).cloned().unwrap_or_default();
        let mut entries = self.0.lock().expect("the account");
        match action {
            "TerminateInstances" => {
                let ids = numbered(params, "InstanceId");
                if let Some(id) = ids.iter().find(|id| !entries.iter().any(|entry| entry.id == ***id)) {
                    return refuse("InvalidInstanceID.NotFound", &format!("The instance ID '{id}' does not exist"));
                }
                entries.iter_mut().filter(|entry| ids.contains(&&entry.id)).for_each(|e| e.state = "terminated".into());
            }
            "CreateTags" => {
                let ids = numbered(params, "ResourceId");
                for entry in entries.iter_mut().filter(|entry| ids.contains(&&entry.id)) {
                    for n in (1_u32..).take_while(|n| params.contains_key(&format!("Tag.{n}.Key"))) {
                        entry.tags.insert(get(&format!("Tag.{n}.Key")), get(&format!("Tag.{n}.Value")));
                    }
                }
            }
            "DescribeImageAttribute" => {
                let image = entries.iter().find(|entry| entry.id == get("ImageId"));
                let who = image
                    .map(|image| image.shared.iter().map(|id| format!("<item><userId>{id}</userId></item>")).collect());
                return done(
                    action,
                    &format!("<launchPermission>{}</launchPermission>", who.unwrap_or_else(String::new)),
                );
            }
            "DisableImageDeregistrationProtection" => {
                entries.iter_mut().filter(|entry| entry.id == get("ImageId")).for_each(|entry| entry.protected = false);
            }
            _ => {
                let names = ["ImageId", "SnapshotId", "VolumeId", "AllocationId", "KeyPairId", "GroupId", "GroupName"];
                let Some(id) = names.iter().find_map(|name| params.get(*name)) else {
                    panic!("no answer for {action}")
                };
                let Some(index) = entries.iter().position(|e| e.id == *id || e.name == *id) else {
                    return refuse("InvalidThing.NotFound", &format!("{id} does not exist"));
                };
                if entries[index].protected {
                    return refuse("OperationNotPermitted", &format!("{id} is protected"));
                }
                entries.remove(index);
            }
        }
        done(action, "<return>true</return>")
    }

    fn list(&self, action: &str, kind: &str, set: &str, params: &Params) -> Answer {
        let entries = self.0.lock().expect("the account");
        let here = |entry: &&Entry| {
            entry.kind() == kind && Some(&entry.region) == params.get("Region") && entry.matches(params)
        };
        let ids = [numbered(params, "ImageId"), numbered(params, "InstanceId")].concat();
        let own = params.get("Owner.1").is_some_and(|owner| owner == "self");
        let found: Vec<&Entry> = entries
            .iter()
            .filter(here)
            .filter(|entry| ids.is_empty() || ids.contains(&&entry.id))
            .filter(|entry| !own || entry.owner == "111122223333")
            .collect();
        if let (Some(id), true) = (ids.first(), found.is_empty()) {
            return refuse("InvalidAMIID.NotFound", &format!("The image id '[{id}]' does not exist"));
        }
        let items: String = found.iter().map(|entry| entry.xml()).collect();
        done(action, &format!("<{set}>{items}</{set}>"))
    }
}
