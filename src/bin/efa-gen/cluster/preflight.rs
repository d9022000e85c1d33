//! Owns what is found out before a cluster is launched: who pays, which image, where, with which network interfaces,
//! and every reason why it would fail. It only reads, and asks by dry run.

use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::catalog::nic_layout::{self, Nic};
use efa_gen::plan::Plan;
use serde::Serialize;

use super::access::AccessPath;
use crate::aws::Aws;
use crate::aws::model::{Identity, Image, Instance, LaunchRun, LaunchSpec, Reservation, Subnet, Tags};
use crate::aws::resources::{image_resource, instance_resource};
use crate::cli::cluster::LaunchArgs;
use crate::io::ssh::dry_run_key;
use crate::preflight::access;
use crate::preflight::base_ami::{named, newest_base};
use crate::preflight::context::PreflightContext;
use crate::preflight::placement::{InstancePlacement, MachineRequirements};
use crate::preflight::problem::Problem;
use crate::run::ledger::published_here;
use crate::run::ownership::Ownership;
use crate::run::{cleanup, ownership, tags};

/// Everything that the launch needs to know of the account; every choice is made here.
#[derive(Debug, Clone, Serialize)]
pub struct ResolvedLaunch {
    pub identity: Identity,
    pub region: String,
    pub name: String,
    pub image: Image,
    /// Login user.
    pub user: String,
    #[serde(skip)]
    pub tty: bool,
    #[serde(skip)]
    pub imds_v2: bool,
    pub machine: InstancePlacement,
    pub nics: Vec<Nic>,
    pub gpus: u32,
    #[serde(rename = "way")]
    pub access_path: AccessPath,
    /// Whether each node gets a public address.
    #[serde(skip)]
    pub public_address: bool,
    pub ssh_cidrs: Vec<String>,
    pub placement_group: bool,
    pub reservation: Option<Reservation>,
    pub root_gib: i32,
    pub notes: Vec<String>,
}

/// What a type and its subnets decide.
struct Placed {
    machine: InstancePlacement,
    nics: Vec<Nic>,
    access_path: AccessPath,
    public_address: bool,
    ssh_cidrs: Vec<String>,
}

/// Whose nodes are launched, as their tags say.
#[derive(Debug, Clone, Copy)]
pub struct ClusterIdentity<'a> {
    pub run: &'a str,
    pub name: &'a str,
    /// When the nodes end themselves, seconds since 1970.
    pub deadline: i64,
    /// Whether the cluster is there already.
    pub grows: bool,
}

/// One preflight.
pub struct LaunchPreflight<'a> {
    pub context: PreflightContext<'a>,
    pub args: &'a LaunchArgs,
    /// What is installed at the first boot.
    pub plan: Option<&'a Plan>,
    /// On every dry run, as on the nodes.
    pub cluster: ClusterIdentity<'a>,
}

impl<'a> LaunchPreflight<'a> {
    pub fn new(
        aws: &'a Aws,
        catalog: &'a Catalog,
        plan: Option<&'a Plan>,
        args: &'a LaunchArgs,
        cluster: ClusterIdentity<'a>,
    ) -> Self {
        LaunchPreflight { context: PreflightContext::new(aws, catalog), args, plan, cluster }
    }

    /// Asks everything; the problems are all of them, not the first.
    pub async fn run(mut self) -> std::result::Result<ResolvedLaunch, Vec<Problem>> {
        self.check_flags();
        let Some(identity) = self.context.identity().await else { return Err(self.context.problems) };
        let args = self.args;
        self.check_name().await;
        let image = self.image().await;
        let distribution = self.distribution(image.as_ref());
        let reservation = self.reservation().await;
        let of_image = image.as_ref().map(|image| (image.architecture.clone(), "the image"));
        let architecture = of_image.or_else(|| Some((self.plan?.base.architecture.clone(), "the plan")));
        let requirements = MachineRequirements {
            flag: "--type",
            architecture: architecture.as_ref().map(|(name, of)| (name.as_str(), *of)),
            image: image.as_ref(),
            subnet: args.subnet.as_deref(),
            spot: false,
            console: true,
            quota: !reservation.as_ref().is_some_and(|reservation| reservation.block),
            count: args.at_least.unwrap_or(args.nodes),
        };
        let machine = self.context.machine(&args.instance_type, &requirements).await;
        let root_gib = self.root_gib(image.as_ref());
        if let Some(distribution) = distribution {
            let id = image.as_ref().map_or("", |image| image.id.as_str());
            self.context.check_agent(&args.reach, distribution, id, args.install && args.ami.is_none());
        }
        let placed = match machine {
            Some(machine) => Some(self.place(machine, reservation.as_ref()).await),
            None => None,
        };
        let (Some(image), Some(distribution), Some(Placed { machine, nics, access_path, public_address, ssh_cidrs })) =
            (image, distribution, placed)
        else {
            return Err(self.context.problems);
        };
        let resolved = ResolvedLaunch {
            identity,
            region: self.context.aws.region.clone(),
            name: self.cluster.name.to_owned(),
            user: distribution.ami.user.clone(),
            tty: distribution.ami.sudo_needs_tty,
            imds_v2: distribution.cloud_init.imdsv2,
            gpus: u32::try_from(machine.info.gpus).unwrap_or(0),
            placement_group: self.placement_group(&machine, reservation.as_ref()),
            root_gib,
            image,
            machine,
            nics,
            access_path,
            public_address,
            ssh_cidrs,
            reservation,
            notes: Vec::new(),
        };
        if self.context.problems.is_empty() {
            self.dry_runs(&resolved).await;
        }
        let PreflightContext { problems, notes, .. } = self.context;
        if problems.is_empty() { Ok(ResolvedLaunch { notes, ..resolved }) } else { Err(problems) }
    }

    /// Where the nodes go, and how they are reached there.
    async fn place(&mut self, mut machine: InstancePlacement, reservation: Option<&Reservation>) -> Placed {
        if let Some(reservation) = reservation {
            machine.subnets.retain(|subnet| subnet.zone == reservation.zone);
            if machine.subnets.is_empty() {
                let what =
                    format!("reservation {} is in {}, where no subnet was found", reservation.id, reservation.zone);
                self.context.add(Problem::new(what, "give --subnet, one of that zone"));
            }
        }
        let nics = self.nics(&machine);
        let (access_path, public_address, ssh_cidrs) = self.access_path(&machine, nics.len()).await;
        self.check_group(&machine).await;
        Placed { machine, nics, access_path, public_address, ssh_cidrs }
    }

    /// What can be said without asking anybody.
    fn check_flags(&mut self) {
        let args = self.args;
        if let Err(error) = tags::own(&args.tag) {
            self.context.add(error);
        }
        self.context.problems.extend(access::check_reach(&args.reach, &access::CARRIERS));
        let name = self.cluster.name;
        let good = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.len() <= 48
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !good {
            let what = format!("--name {name:?} is not the name of a cluster");
            self.context.add(Problem::usage(what, "a letter, then small letters, digits and `-`, 48 at most"));
        }
        if args.at_least.is_some_and(|least| least > args.nodes) {
            let what = format!("--at-least {} is more than --nodes {}", args.at_least.unwrap_or(0), args.nodes);
            self.context.add(Problem::usage(what, "leave it out: then it is all of them, or none"));
        }
    }

    async fn check_name(&mut self) {
        let ClusterIdentity { name, grows, .. } = self.cluster;
        if grows {
            return;
        }
        let filter = format!("tag:{}", tags::CLUSTER);
        match self.context.aws.instances(&[(&filter, name)]).await {
            Ok(found) => {
                let mut ownership = Ownership::default();
                let region = &self.context.aws.region;
                let mut is_own = |node: &Instance| ownership.of(&instance_resource(node, region), &[]).is_ok();
                let (own, others): (Vec<Instance>, Vec<Instance>) =
                    found.into_iter().filter(Instance::exists).partition(|node| is_own(node));
                let (node, hint) = match (own.first(), others.first()) {
                    (Some(node), _) => (node, format!("choose another --name, or efa-gen cluster rm {name}")),
                    (None, Some(node)) => (
                        node,
                        format!(
                            "choose another --name: efa-gen did not launch it; or take its tag {} away",
                            tags::CLUSTER
                        ),
                    ),
                    (None, None) => return,
                };
                let what = format!("there is a cluster {name} already: node {} is {}", node.id, node.state);
                self.context.add(Problem::new(what, hint));
            }
            Err(error) => self.context.add(error),
        }
    }

    /// The nodes' image: named, or the newest of the distribution.
    async fn image(&mut self) -> Option<Image> {
        let found = match (&self.args.ami, self.plan) {
            (Some(id), _) => named(&self.context, id).await,
            (None, Some(plan)) => match self.context.catalog.distribution(&plan.distribution) {
                Ok(distribution) => newest_base(&mut self.context, distribution, &plan.base.architecture).await,
                Err(error) => Err(error.into()),
            },
            (None, None) => self.newest_own().await,
        };
        let image = found.map_err(|problem| self.context.add(problem)).ok()?;
        if image.state != "available" {
            self.context
                .add(Problem::new(format!("AMI {} is {}", image.id, image.state), "wait until it is available"));
        }
        if image.tags.get(tags::VERDICT).is_some_and(|verdict| verdict == "failed") {
            let what = format!("AMI {} did not pass its gate", image.id);
            self.context.add(Problem::new(what, "build another one: nothing that runs on it can be trusted"));
        }
        Some(image)
    }

    /// The newest image of a distribution that efa-gen has published here.
    async fn newest_own(&mut self) -> Result<Image, Problem> {
        let distro = self.args.distro.as_deref().unwrap_or_default();
        let distribution = self.context.catalog.distribution(distro)?;
        let (of, state) = (format!("tag:{}", tags::DISTRIBUTION), format!("tag:{}", tags::STATE));
        let filters = [(of.as_str(), distribution.id.as_str()), (state.as_str(), tags::PUBLISHED)];
        let images = self.context.aws.images(&["self"], &filters).await?;
        let (own, others): (Vec<Image>, Vec<Image>) =
            images.into_iter().partition(|image| ownership::image(image).is_ok());
        for other in &others {
            let why = ownership::image(other).err().unwrap_or_default();
            let resource = image_resource(other, &self.context.aws.region);
            self.context.notes.push(cleanup::left_alone(&resource, &why));
        }
        let newest = own.into_iter().max_by(|one, other| one.created.cmp(&other.created));
        if let Some(image) = &newest {
            self.note_origin(image)?;
        }
        newest.ok_or_else(|| {
            let what = format!("{} has no image of {distro} that efa-gen has built", self.context.aws.region);
            let hint = format!("efa-gen build --distro {distro}, or --install: install everything at the first boot");
            Problem::new(what, hint)
        })
    }

    /// Says of an image that this machine has not published who did: its own tags are all that tells of it.
    fn note_origin(&mut self, image: &Image) -> Result<(), Problem> {
        let tag = |name: &str| image.tags.get(name).map(String::as_str).unwrap_or_default();
        if !published_here(tag(tags::RUN), &image.id, tag(tags::PLAN))? {
            let created = image.created.get(..10).unwrap_or(&image.created);
            self.context.notes.push(format!(
                "{} ({}) is the newest: by its tags, run {} made it on {created}; this machine did not, and --ami names another one",
                image.id, image.name, tag(tags::RUN)
            ));
        }
        Ok(())
    }

    /// Whose login user and cloud-init it is: the image's tag says so, or the user.
    fn distribution(&mut self, image: Option<&Image>) -> Option<&'a Distribution> {
        let tag = image.and_then(|image| image.tags.get(tags::DISTRIBUTION));
        let Some(name) = tag.or(self.args.distro.as_ref()) else {
            let image = image?;
            let what = format!("AMI {} does not say which distribution it is of", image.id);
            self.context.add(Problem::usage(what, "efa-gen has not built it: name its distribution with --distro"));
            return None;
        };
        match self.context.catalog.distribution(name) {
            Ok(distribution) => Some(distribution),
            Err(error) => {
                self.context.add(error);
                None
            }
        }
    }

    async fn reservation(&mut self) -> Option<Reservation> {
        let id = self.args.capacity_reservation.as_ref()?;
        let found = match self.context.aws.reservation(id).await {
            Ok(found) => found,
            Err(error) => {
                self.context.add(error);
                return None;
            }
        };
        let Some(found) = found else {
            let what = format!("{} has no capacity reservation {id}", self.context.aws.region);
            self.context.add(Problem::new(what, "is it in this region and account, or shared with it?"));
            return None;
        };
        let least = i64::from(self.args.at_least.unwrap_or(self.args.nodes));
        if found.instance_type != self.args.instance_type {
            let what = format!("reservation {id} is for {}, not for {}", found.instance_type, self.args.instance_type);
            self.context.add(Problem::new(what, "give its --type"));
        } else if found.state != "active" {
            let what = format!("reservation {id} is {}", found.state);
            self.context.add(Problem::new(what, "a capacity block becomes active when it begins"));
        } else if i64::from(found.free) < least {
            let what = format!("reservation {id} has {} instances free, {least} are asked for", found.free);
            self.context.add(Problem::new(what, "end what uses it, or launch fewer"));
        }
        Some(found)
    }

    /// EC2's own counts, checked against efa-gen's table.
    fn nics(&mut self, machine: &InstancePlacement) -> Vec<Nic> {
        let InstancePlacement { instance_type: kind, info, .. } = machine;
        if let Ok(known) = self.context.catalog.instance_type(kind)
            && known.efa != info.efa
        {
            let note = format!("EC2 says that {kind} has {} EFA devices, efa-gen's table says {}", info.efa, known.efa);
            self.context.notes.push(format!("{note}; EC2's count is taken"));
        }
        match nic_layout::layout(kind, info.efa, info.cards) {
            Ok(nics) => nics,
            Err(error) => {
                self.context.add(error);
                Vec::new()
            }
        }
    }

    /// How the nodes are reached, whether by public addresses of their own, which Session Manager's agent needs too, and by whom.
    async fn access_path(&mut self, machine: &InstancePlacement, nics: usize) -> (AccessPath, bool, Vec<String>) {
        let (args, several) = (self.args, nics > 1);
        let downloads = self.plan.is_some() && args.recipe.mirror.is_none();
        let public = match machine.subnets.first() {
            Some(subnet) => self.context.route(subnet, &args.reach, "the nodes", downloads, args.reach.private).await,
            None => false,
        };
        let access_path = match (args.reach.session_manager, public, several) {
            (true, ..) => AccessPath::SessionManager,
            (false, true, true) => AccessPath::ThroughLeader,
            (false, true, false) => AccessPath::Public,
            (false, false, _) => AccessPath::Private,
        };
        if several && public && downloads {
            let what = format!(
                "a {} has {nics} interfaces and so no public address: it can't download anything",
                machine.instance_type
            );
            self.context.add(Problem::new(
                what,
                "launch an image that has everything, or name a --subnet behind a NAT gateway",
            ));
        }
        (access_path, public && !several, self.context.cidrs(&args.reach, public, "the nodes").await)
    }

    async fn check_group(&mut self, machine: &InstancePlacement) {
        let Some(id) = &self.args.security_group else { return };
        match self.context.aws.members(id).await {
            Ok(Some((vpc, members))) => {
                if machine.subnets.first().is_some_and(|subnet| subnet.vpc != vpc) {
                    let what = format!("security group {id} is of {vpc}, the subnets are not");
                    self.context.add(Problem::new(what, "give a --subnet of that VPC"));
                }
                let missing = match (members.inward, members.outward) {
                    (true, true) => return,
                    (false, true) => "in",
                    (true, false) => "out",
                    (false, false) => "in and out",
                };
                let what = format!("security group {id} does not let all traffic of its own members {missing}");
                self.context.add(Problem::new(
                    what,
                    "EFA needs a rule for all traffic that names the group itself, in both directions; every address is not the same",
                ));
            }
            Ok(None) => {
                let what = format!("{} has no security group {id}", self.context.aws.region);
                self.context.add(Problem::new(what, "is it in this region and account?"));
            }
            Err(error) => self.context.add(error),
        }
    }

    /// A reservation has its own placement; a capacity block allows none (aws/aws-parallelcluster, cluster validators).
    fn placement_group(&mut self, machine: &InstancePlacement, reservation: Option<&Reservation>) -> bool {
        if self.args.no_placement_group || reservation.is_some() {
            return false;
        }
        if !machine.info.clusters {
            let note = format!("{} can't be in a placement group `cluster`, so there is none", machine.instance_type);
            self.context.notes.push(note);
        }
        machine.info.clusters
    }

    fn root_gib(&mut self, image: Option<&Image>) -> i32 {
        let planned = self.plan.map_or(0, |plan| i32::try_from(plan.base.root_gib).unwrap_or(i32::MAX));
        let needed = image.map_or(0, |image| image.root_gib).max(planned);
        let asked = self.args.root_gib.map(i32::from);
        if let Some(asked) = asked.filter(|asked| *asked < needed) {
            let what = format!("--root-gib {asked} is too small: {needed} GiB are needed");
            self.context.add(Problem::new(what, format!("leave it out, or give {needed} or more")));
        }
        asked.unwrap_or(needed)
    }

    /// What can be asked without making anything, with the tags that the real calls have: a policy may allow nothing else.
    async fn dry_runs(&mut self, resolved: &ResolvedLaunch) {
        let (Some(subnet), aws) = (resolved.machine.subnets.first(), self.context.aws) else { return };
        let name = "efa-gen-dry-run";
        let ClusterIdentity { run, name: cluster, deadline, .. } = self.cluster;
        let tags = cluster_tags(&self.args.tag, run, cluster);
        let of_node = node_tags(&tags, deadline);
        let key = dry_run_key(name, self.args.reach.key_type);
        let mut answers = vec![
            aws.launch(
                &launch_spec(self.args, resolved, subnet),
                &LaunchRun::dry((self.args.at_least.unwrap_or(self.args.nodes), self.args.nodes), of_node.clone()),
                true,
            )
            .await
            .err(),
        ];
        if let Some(key) = &key {
            answers.push(aws.import_key(name, key, &tags, true).await.err());
        }
        if self.args.security_group.is_none() {
            answers.push(aws.create_group(name, "efa-gen dry run", &subnet.vpc, &tags, true).await.err());
        }
        if resolved.placement_group {
            answers.push(aws.create_placement_group(name, &tags, true).await.err());
        }
        if resolved.access_path == AccessPath::ThroughLeader {
            answers.push(aws.allocate_address(&of_node, true).await.err());
        }
        self.context.add_dry_runs(answers);
    }
}

/// On whatever a cluster has. The preflight has checked the tags of the user's `own`.
pub fn cluster_tags(own: &[String], run: &str, name: &str) -> Tags {
    let mut all = tags::own(own).unwrap_or_default();
    all.insert(tags::RUN.into(), run.to_owned());
    all.insert(tags::CLUSTER.into(), name.to_owned());
    all.insert("Name".into(), name.to_owned());
    all
}

/// On its nodes and the leader's address: those of the cluster, and when the nodes end themselves (seconds since 1970).
pub fn node_tags(of_cluster: &Tags, deadline: i64) -> Tags {
    let mut all = of_cluster.clone();
    all.insert(tags::ROLE.into(), tags::NODE.into());
    all.insert(tags::UNTIL.into(), tags::until_second(deadline));
    all
}

/// A launch of the nodes in this subnet.
pub fn launch_spec(args: &LaunchArgs, resolved: &ResolvedLaunch, subnet: &Subnet) -> LaunchSpec {
    LaunchSpec {
        image: resolved.image.id.clone(),
        instance_type: resolved.machine.instance_type.clone(),
        subnet: subnet.id.clone(),
        root_device: resolved.image.root_device.clone(),
        root_gib: resolved.root_gib,
        kms_key: None,
        // What is encrypted stays so, with its own key.
        encrypted: (!resolved.image.encrypted).then_some(true),
        imds_v2: resolved.imds_v2,
        public_address: Some(resolved.public_address),
        nics: resolved.nics.clone(),
        spot: false,
        reservation: resolved.reservation.clone(),
        profile: args.reach.instance_profile.clone(),
    }
}
