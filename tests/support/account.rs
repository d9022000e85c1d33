//! Owns a small account for the stub of AWS: things that can be listed, tagged, changed and removed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use super::aws::{Answer, Params, done, refuse};

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
    pub imds_v2: bool,
    pub deprecated: String,
    /// The token of the launch.
    pub token: String,
    pub key: String,
    /// The instance that a volume or an address is with, and that an image was made of.
    pub instance: String,
    pub description: String,
    /// Region and id of the image that a copy was made of.
    pub source: Option<(String, String)>,
}

impl Entry {
    /// What has this run's tag, and nothing else of the run. The id's prefix says what it is; it is in us-east-1.
    pub fn tagged(id: &str, run: &str, created: &str) -> Self {
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

    /// The same, as the run makes it.
    pub fn new(id: &str, run: &str, created: &str) -> Self {
        let entry = Entry::tagged(id, run, created);
        let name = format!("efa-gen-{run}");
        match entry.kind() {
            "i" => Entry { key: name, ..entry }.tag("efa-gen:role", "builder"),
            "vol" => Entry { instance: "i-1".into(), ..entry },
            "eipalloc" => entry.tag("efa-gen:cluster", "one").tag("efa-gen:role", "node"),
            "ami" => Entry { name: format!("efa-gen-{id}"), ..entry },
            "key" | "sg" | "pg" => Entry { name, ..entry },
            _ => entry,
        }
    }

    pub fn with_time(self, created: &str) -> Self {
        Entry { created: created.into(), ..self }
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
            ("image-id" | "instance-id" | "snapshot-id", _) => self.id == *value,
            ("name", _) => self.name == *value,
            _ => panic!("the account has no filter {name}"),
        })
    }

    fn xml(&self) -> String {
        let Entry { id, name, state, created, owner, token, key, description, .. } = self;
        let mut tags = String::new();
        for (key, value) in &self.tags {
            let _ = write!(tags, "<item><key>{key}</key><value>{value}</value></item>");
        }
        let tags = format!("<tagSet>{tags}</tagSet>");
        let own = match self.kind() {
            "i" => format!(
                "<instancesSet><item><instanceId>{id}</instanceId><instanceType>c5.large</instanceType>\
                 <instanceState><name>{state}</name></instanceState><launchTime>{created}</launchTime>\
                 <keyName>{key}</keyName><clientToken>{token}</clientToken><privateIpAddress>10.0.0.9</privateIpAddress>\
                 <ipAddress>192.0.2.9</ipAddress>{tags}</item></instancesSet>"
            ),
            "ami" => {
                let mut blocks = String::new();
                for id in &self.snapshots {
                    let _ = write!(
                        blocks,
                        "<item><deviceName>/dev/xvda</deviceName><ebs><snapshotId>{id}</snapshotId></ebs></item>"
                    );
                }
                let imds = if self.imds_v2 { "<imdsSupport>v2.0</imdsSupport>" } else { "" };
                let from = match self.instance.as_str() {
                    "" => String::new(),
                    from => format!("<sourceInstanceId>{from}</sourceInstanceId>"),
                };
                let copied = |(region, id): &(String, String)| {
                    format!("<sourceImageRegion>{region}</sourceImageRegion><sourceImageId>{id}</sourceImageId>")
                };
                let copied = self.source.as_ref().map(copied).unwrap_or_default();
                let flags = format!("{imds}{from}{copied}<deprecationTime>{}</deprecationTime>", self.deprecated);
                let protection = if self.protected { "enabled" } else { "disabled" };
                format!(
                    "<imageId>{id}</imageId><name>{name}</name><imageOwnerId>{owner}</imageOwnerId><imageState>{state}</imageState>\
                     <architecture>x86_64</architecture>\
                     <creationDate>{created}</creationDate><blockDeviceMapping>{blocks}</blockDeviceMapping>{flags}\
                     <deregistrationProtection>{protection}</deregistrationProtection>{tags}"
                )
            }
            "snap" => {
                format!(
                    "<snapshotId>{id}</snapshotId><status>completed</status><startTime>{created}</startTime>\
                     <description>{description}</description>{tags}"
                )
            }
            "vol" => {
                let attached = match self.instance.as_str() {
                    "" => String::new(),
                    to => format!("<attachmentSet><item><instanceId>{to}</instanceId></item></attachmentSet>"),
                };
                format!(
                    "<volumeId>{id}</volumeId><status>{state}</status><createTime>{created}</createTime>{attached}{tags}"
                )
            }
            "eipalloc" => {
                let with = match self.instance.as_str() {
                    "" => String::new(),
                    with => format!("<instanceId>{with}</instanceId>"),
                };
                format!("<allocationId>{id}</allocationId><publicIp>192.0.2.1</publicIp>{with}{tags}")
            }
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

/// The image that a call is about.
fn image<'a>(entries: &'a mut [Entry], params: &Params) -> &'a mut Entry {
    entries.iter_mut().find(|entry| params.get("ImageId") == Some(&entry.id)).expect("the image is there")
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
                entries.retain(|entry| entry.state != "in-use" || !ids.contains(&&entry.instance));
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
                let who = |id: &String| match id.strip_prefix("arn:") {
                    Some(_) => format!("<item><organizationArn>{id}</organizationArn></item>"),
                    None => format!("<item><userId>{id}</userId></item>"),
                };
                let shared = image.map(|image| image.shared.iter().map(who).collect::<String>()).unwrap_or_default();
                return done(action, &format!("<launchPermission>{shared}</launchPermission>"));
            }
            "EnableImageDeregistrationProtection" => image(&mut entries, params).protected = true,
            "DisableImageDeregistrationProtection" => image(&mut entries, params).protected = false,
            "EnableImageDeprecation" => image(&mut entries, params).deprecated = get("DeprecateAt"),
            "ModifyImageAttribute" => {
                let image = image(&mut entries, params);
                image.imds_v2 |= get("ImdsSupport.Value") == "v2.0";
                let add = (1_u32..).map_while(|n| {
                    let given = |end: &str| params.get(&format!("LaunchPermission.Add.{n}.{end}"));
                    given("UserId").or(given("OrganizationArn")).or(given("OrganizationalUnitArn"))
                });
                image.shared.extend(add.cloned());
            }
            _ => {
                let names = ["ImageId", "SnapshotId", "VolumeId", "AllocationId", "KeyPairId", "GroupId", "GroupName"];
                let Some(id) = names.iter().find_map(|name| params.get(*name)) else {
                    panic!("no answer for {action}")
                };
                let Some(index) = entries.iter().position(|e| e.id == *id || e.kind() == "pg" && e.name == *id) else {
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
