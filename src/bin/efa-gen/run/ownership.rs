//! Owns the one proof that a resource in an account was made by a run. The tag `efa-gen:run` proves nothing: whoever may tag
//! can give it, and backups, "Launch more like this" and hand-made snapshots take it along.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::id::{began, is_run};
use super::ledger::known_here;
use super::resources::name;
use super::tags;
use crate::aws::model::{Image, Resource, ResourceKind, Tags};

/// Tags that AWS Backup and Data Lifecycle Manager give to what they make of a run's resources (AWS Backup Developer Guide,
/// "Tags"; Amazon EBS User Guide, "Amazon Data Lifecycle Manager"), and those of other services that make instances.
const MADE_BY_OTHERS: [(&str, &str); 7] = [
    ("aws:backup:", "AWS Backup"),
    ("aws:dlm:", "Data Lifecycle Manager"),
    ("dlm:managed", "Data Lifecycle Manager"),
    ("aws:autoscaling:", "Auto Scaling"),
    ("aws:cloudformation:", "CloudFormation"),
    (PACKERS[0], "a launch template"),
    (PACKERS[1], "an EC2 fleet"),
];

/// Tags of what comes by a launch template and a fleet.
const PACKERS: [&str; 2] = ["aws:ec2launchtemplate:", "aws:ec2:fleet-id"];

/// How far the clock of the machine that named a run may be off: AWS refuses a request that is off by more (AWS IAM User Guide,
/// "Troubleshoot Signature Version 4").
const CLOCK: SignedDuration = SignedDuration::from_mins(15);

/// What a run's own resources may have as `efa-gen:role`.
const ROLES: [&str; 2] = [tags::BUILDER, tags::NODE];

/// How Packer begins the names of its key pairs and security groups.
const PACKER: &str = "packer_";

/// What is known of a listing while it is judged: resources go in the order of their kinds, because an instance proves its
/// volumes, and an image its snapshots.
#[derive(Debug, Default)]
pub struct Ownership {
    /// Ids of what ledgers have, and of what was proven before.
    known: BTreeSet<String>,
    /// Runs whose ledger on this machine was read.
    read: BTreeSet<String>,
    /// Ids of instances of ours.
    instances: BTreeSet<String>,
    /// Which image of ours has a snapshot.
    snapshots: BTreeMap<String, String>,
    /// Ids of images that carry a run's tag and are not its own.
    others: BTreeSet<String>,
}

impl Ownership {
    /// `known` are ids that a ledger has, or that were proven before.
    pub fn new(known: impl IntoIterator<Item = String>) -> Self {
        let known: BTreeSet<String> = known.into_iter().collect();
        Ownership { instances: known.clone(), known, ..Ownership::default() }
    }

    /// Why a resource is the run's whose tag it carries. Images of ours prove their snapshots by `images`.
    ///
    /// Errors: why it only carries the tag.
    pub fn of(&mut self, resource: &Resource, images: &[Image]) -> Result<String, String> {
        let proof = self.judge(resource);
        match (&proof, resource.kind) {
            (Ok(_), ResourceKind::Instance) => drop(self.instances.insert(resource.id.clone())),
            (Ok(_), ResourceKind::Image) => {
                let snapshots =
                    images.iter().filter(|image| image.id == resource.id).flat_map(|image| &image.snapshots);
                self.snapshots.extend(snapshots.map(|id| (id.clone(), resource.id.clone())));
            }
            (Err(_), ResourceKind::Image) => drop(self.others.insert(resource.id.clone())),
            _ => {}
        }
        proof
    }

    fn judge(&mut self, resource: &Resource) -> Result<String, String> {
        let run = run_of(&resource.tags)?;
        // Packer's spot machines come by a launch template and a fleet of its own.
        let packers = resource.kind == ResourceKind::Instance && is_packers(resource);
        refuse_others(&resource.tags, if packers { &PACKERS } else { &[] })?;
        if self.read.insert(run.to_owned()) {
            // A ledger that can't be read proves nothing; whoever removes the run is told why.
            let recorded = known_here(run).unwrap_or_default();
            self.instances.extend(recorded.iter().map(|resource| resource.id.clone()));
            self.known.extend(recorded.into_iter().map(|resource| resource.id));
        }
        if self.known.contains(&resource.id) {
            return Ok("recorded by its run".to_owned());
        }
        within_run(run, &resource.created, &resource.tags)?;
        match resource.kind {
            ResourceKind::Instance => of_instance(resource, run),
            ResourceKind::Image => of_image(&resource.name, &resource.tags),
            ResourceKind::Snapshot => self.of_snapshot(resource),
            ResourceKind::Volume => self.of_volume(resource),
            ResourceKind::Address => self.of_address(resource),
            ResourceKind::KeyPair | ResourceKind::SecurityGroup => of_named(resource, run, true),
            ResourceKind::PlacementGroup => of_named(resource, run, false),
        }
    }

    fn of_snapshot(&self, snapshot: &Resource) -> Result<String, String> {
        if let Some(image) = self.snapshots.get(&snapshot.id)
            && is_of(snapshot, image)
        {
            return Ok(format!("of image {image}"));
        }
        let none = || Err("no image of the run has it".to_owned());
        match image_of_snapshot(&snapshot.origin.description) {
            Some(image) if self.known.contains(image) => Ok(format!("made for image {image}")),
            Some(image) if !self.others.contains(image) && has_image_tags(&snapshot.tags) => {
                Ok(format!("made for image {image}, with the run's tags"))
            }
            _ => none(),
        }
    }

    fn of_volume(&self, volume: &Resource) -> Result<String, String> {
        match &volume.origin.instance {
            Some(id) if self.instances.contains(id) => Ok(format!("attached to {id}")),
            Some(id) => Err(format!("attached to {id}, which is not the run's")),
            None => Err("attached to no instance of the run".to_owned()),
        }
    }

    fn of_address(&self, address: &Resource) -> Result<String, String> {
        if let Some(id) = address.origin.instance.as_ref().filter(|id| !self.instances.contains(*id)) {
            return Err(format!("associated with {id}, which is not the run's"));
        }
        let own = address.tags.contains_key(tags::CLUSTER) && has_role(&address.tags, &[tags::NODE]);
        if own { Ok("has the run's tags, and nothing else uses it".to_owned()) } else { Err(incomplete()) }
    }
}

/// Why an image is the run's whose tag it carries, by its name, its tags and its age.
///
/// Errors: why it only carries the tag.
pub fn image(image: &Image) -> Result<String, String> {
    let run = run_of(&image.tags)?;
    refuse_others(&image.tags, &[])?;
    within_run(run, &image.created, &image.tags)?;
    of_image(&image.name, &image.tags)
}

/// Whether EC2 made a snapshot for this image. That an image names it proves nothing: whoever may register images can name any.
pub fn is_of(snapshot: &Resource, image: &str) -> bool {
    image_of_snapshot(&snapshot.origin.description) == Some(image)
}

/// The run that a resource carries the tag of.
fn run_of(all: &Tags) -> Result<&str, String> {
    let run = all.get(tags::RUN).map(String::as_str).unwrap_or_default();
    if is_run(run) { Ok(run) } else { Err(format!("its tag {} is not the name of a run", tags::RUN)) }
}

/// Who else made it, by the tags that only they give.
fn refuse_others(all: &Tags, except: &[&str]) -> Result<(), String> {
    let other = MADE_BY_OTHERS
        .iter()
        .find(|(prefix, _)| !except.contains(prefix) && all.keys().any(|key| key.starts_with(prefix)));
    other.map_or(Ok(()), |(_, who)| Err(format!("made by {who}")))
}

/// A run makes nothing before it begins, nor after the time at which its machines end themselves. Some resources tell no time.
fn within_run(run: &str, created: &str, all: &Tags) -> Result<(), String> {
    let Ok(created) = created.parse::<Timestamp>() else { return Ok(()) };
    if began(run).is_some_and(|began| created < began.saturating_sub(CLOCK).unwrap_or(began)) {
        return Err(format!("older than run {run}"));
    }
    let until = all.get(tags::UNTIL).and_then(|until| until.parse::<Timestamp>().ok());
    match until {
        Some(until) if created > until => Err(format!("made after {}={until}", tags::UNTIL)),
        _ => Ok(()),
    }
}

/// Whether Packer launched it for a run.
fn is_packers(instance: &Resource) -> bool {
    instance.origin.key.starts_with(PACKER) && instance.tags.contains_key(tags::PLAN)
}

/// The token of its launch is the run's own, which no tag can say; or it has a role and the run's key pair or group. A launch with
/// the token of somebody else copied these.
fn of_instance(instance: &Resource, run: &str) -> Result<String, String> {
    let origin = &instance.origin;
    if origin.token.starts_with(run) {
        return Ok("launched by the run's own call".to_owned());
    }
    let foreign = !origin.token.is_empty() && !origin.token.get(..run.len()).is_some_and(is_run);
    let own = name(run);
    if !foreign && has_role(&instance.tags, &ROLES) {
        if origin.key == own {
            return Ok(format!("has key pair {own}"));
        }
        if origin.groups.contains(&own) {
            return Ok(format!("is in security group {own}"));
        }
    }
    if is_packers(instance) {
        return Ok(format!("has Packer's key pair {} and the run's tags", origin.key));
    }
    Err(match foreign {
        true => "somebody else launched it".to_owned(),
        false => "it has neither the run's key pair nor its security group".to_owned(),
    })
}

/// What CreateImage and CopyImage get from efa-gen. A backup of a machine has the machine's tags: its role, and another name.
fn of_image(own_name: &str, all: &Tags) -> Result<String, String> {
    let named = own_name.starts_with("efa-gen-") || all.get("Name").is_some_and(|name| name == own_name);
    if named && has_image_tags(all) { Ok("has the run's name and tags".to_owned()) } else { Err(incomplete()) }
}

fn of_named(resource: &Resource, run: &str, packer: bool) -> Result<String, String> {
    let own = name(run);
    if resource.name == own {
        return Ok("has the run's name".to_owned());
    }
    if packer && resource.name.starts_with(PACKER) && resource.tags.contains_key(tags::PLAN) {
        return Ok("Packer's, with the run's tags".to_owned());
    }
    Err(format!("its name is not {own}"))
}

/// The tags that an image and its snapshots have, and no machine.
fn has_image_tags(all: &Tags) -> bool {
    let state = all.get(tags::STATE).is_some_and(|state| tags::IMAGE_STATES.contains(&state.as_str()));
    state && all.get(tags::PLAN).is_some_and(|plan| !plan.is_empty()) && !all.contains_key(tags::ROLE)
}

fn has_role(all: &Tags, roles: &[&str]) -> bool {
    all.get(tags::ROLE).is_some_and(|role| roles.contains(&role.as_str()))
}

fn incomplete() -> String {
    format!("it carries {}, and not what a run gives besides", tags::RUN)
}

/// The image that EC2 made a snapshot for, as its description says: `Created by CreateImage(i-1) for ami-1`, `Copied for
/// DestinationAmi ami-2 from SourceAmi ami-1 ...`.
fn image_of_snapshot(description: &str) -> Option<&str> {
    let rest = match description.strip_prefix("Created by CreateImage(") {
        Some(rest) => rest.split_once(") for ")?.1,
        None => description.strip_prefix("Copied for DestinationAmi ")?,
    };
    rest.split(' ').next().filter(|id| id.starts_with("ami-"))
}
