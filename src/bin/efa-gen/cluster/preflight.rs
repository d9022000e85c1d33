//! Owns what is found out before a cluster is launched: who pays, which image, where, with which network interfaces, and every
//! reason why it would fail. It only reads, and asks by dry run. Knows nothing of how a launch goes on.

use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::cluster::nic::{self, Nic};
use efa_gen::plan::Plan;
use serde::Serialize;

use super::nodes;
use super::record::Way;
use crate::build::base::{named, newest_base};
use crate::build::problem::Problem;
use crate::build::tags;
use crate::cli::cluster::LaunchArgs;
use crate::ec2::Aws;
use crate::ec2::model::{Identity, Image, Launch, Reservation};
use crate::place::{self, Look, Machine, Wish};

/// Everything that the launch needs to know of the account; every choice is made here.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
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
    pub machine: Machine,
    pub nics: Vec<Nic>,
    pub gpus: u32,
    pub way: Way,
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
    machine: Machine,
    nics: Vec<Nic>,
    way: Way,
    public_address: bool,
    ssh_cidrs: Vec<String>,
}

/// One preflight.
pub struct Preflight<'a> {
    pub look: Look<'a>,
    pub args: &'a LaunchArgs,
    /// What is installed at the first boot.
    pub plan: Option<&'a Plan>,
    pub name: &'a str,
}

impl<'a> Preflight<'a> {
    pub fn new(
        aws: &'a Aws,
        catalog: &'a Catalog,
        plan: Option<&'a Plan>,
        args: &'a LaunchArgs,
        name: &'a str,
    ) -> Self {
        Preflight { look: Look::new(aws, catalog), args, plan, name }
    }

    /// Asks everything; the problems are all of them, not the first.
    pub async fn run(mut self) -> std::result::Result<Ready, Vec<Problem>> {
        self.check_flags();
        let identity = match self.look.aws.identity().await {
            Ok(identity) => identity,
            // Nothing else would be answered either.
            Err(error) => {
                self.look.problems.insert(0, error.into());
                return Err(self.look.problems);
            }
        };
        let args = self.args;
        self.check_name().await;
        let image = self.image().await;
        let distribution = self.distribution(image.as_ref());
        let reservation = self.reservation().await;
        let of_image = image.as_ref().map(|image| (image.architecture.clone(), "the image"));
        let architecture = of_image.or_else(|| Some((self.plan?.base.architecture.clone(), "the plan")));
        let wish = Wish {
            flag: "--type",
            architecture: architecture.as_ref().map(|(name, of)| (name.as_str(), *of)),
            subnet: args.subnet.as_deref(),
            spot: false,
            console: true,
            quota: !reservation.as_ref().is_some_and(|reservation| reservation.block),
            count: args.at_least.unwrap_or(args.nodes),
        };
        let machine = self.look.machine(&args.kind, &wish).await;
        let root_gib = self.root_gib(image.as_ref());
        if let Some(distribution) = distribution {
            let id = image.as_ref().map_or("", |image| image.id.as_str());
            self.look.check_agent(&args.reach, distribution, id, args.install && args.ami.is_none());
        }
        let placed = match machine {
            Some(machine) => Some(self.place(machine, reservation.as_ref()).await),
            None => None,
        };
        let (Some(image), Some(distribution), Some(Placed { machine, nics, way, public_address, ssh_cidrs })) =
            (image, distribution, placed)
        else {
            return Err(self.look.problems);
        };
        let ready = Ready {
            identity,
            region: self.look.aws.region.clone(),
            name: self.name.to_owned(),
            user: distribution.ami.user.clone(),
            tty: distribution.ami.sudo_needs_tty,
            imds_v2: distribution.cloud_init.imdsv2,
            gpus: u32::try_from(machine.info.gpus).unwrap_or(0),
            placement_group: self.placement_group(&machine, reservation.as_ref()),
            root_gib,
            image,
            machine,
            nics,
            way,
            public_address,
            ssh_cidrs,
            reservation,
            notes: Vec::new(),
        };
        if self.look.problems.is_empty() {
            self.dry_runs(&ready).await;
        }
        let Look { problems, notes, .. } = self.look;
        if problems.is_empty() { Ok(Ready { notes, ..ready }) } else { Err(problems) }
    }

    /// Where the nodes go, and how they are reached there.
    async fn place(&mut self, mut machine: Machine, reservation: Option<&Reservation>) -> Placed {
        if let Some(reservation) = reservation {
            machine.subnets.retain(|subnet| subnet.zone == reservation.zone);
            if machine.subnets.is_empty() {
                let what =
                    format!("reservation {} is in {}, where no subnet was found", reservation.id, reservation.zone);
                self.look.add(Problem::new(what, "give --subnet, one of that zone"));
            }
        }
        let nics = self.nics(&machine);
        let (way, public_address, ssh_cidrs) = self.way(&machine, nics.len()).await;
        self.check_group(&machine).await;
        Placed { machine, nics, way, public_address, ssh_cidrs }
    }

    /// What can be said without asking anybody.
    fn check_flags(&mut self) {
        let args = self.args;
        if let Err(error) = tags::own(&args.tag) {
            self.look.add(error);
        }
        self.look.problems.extend(place::check_reach(&args.reach, &place::CARRIERS));
        let good = self.name.starts_with(|c: char| c.is_ascii_lowercase())
            && self.name.len() <= 48
            && self.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !good {
            let what = format!("--name {:?} is not the name of a cluster", self.name);
            self.look.add(Problem::usage(what, "a letter, then small letters, digits and `-`, 48 at most"));
        }
        if args.at_least.is_some_and(|least| least > args.nodes) {
            let what = format!("--at-least {} is more than --nodes {}", args.at_least.unwrap_or(0), args.nodes);
            self.look.add(Problem::usage(what, "leave it out: then it is all of them, or none"));
        }
    }

    async fn check_name(&mut self) {
        let filter = format!("tag:{}", tags::CLUSTER);
        match self.look.aws.instances(&[(&filter, self.name)]).await {
            Ok(found) => {
                if let Some(node) = found.iter().find(|node| node.is_there()) {
                    let what = format!("there is a cluster {} already: node {} is {}", self.name, node.id, node.state);
                    let hint = format!("choose another --name, or efa-gen cluster rm {}", self.name);
                    self.look.add(Problem::new(what, hint));
                }
            }
            Err(error) => self.look.add(error),
        }
    }

    /// The nodes' image: named, or the newest of the distribution.
    async fn image(&mut self) -> Option<Image> {
        let found = match (&self.args.ami, self.plan) {
            (Some(id), _) => named(&self.look, id).await,
            (None, Some(plan)) => match self.look.catalog.distribution(&plan.distribution) {
                Ok(distribution) => newest_base(&mut self.look, distribution, &plan.base.architecture).await,
                Err(error) => Err(error.into()),
            },
            (None, None) => self.newest_own().await,
        };
        let image = found.map_err(|problem| self.look.add(problem)).ok()?;
        if image.state != "available" {
            self.look.add(Problem::new(format!("AMI {} is {}", image.id, image.state), "wait until it is available"));
        }
        if image.tags.get(tags::VERDICT).is_some_and(|verdict| verdict == "failed") {
            let what = format!("AMI {} did not pass its gate", image.id);
            self.look.add(Problem::new(what, "build another one: nothing that runs on it can be trusted"));
        }
        Some(image)
    }

    /// The newest image of a distribution that efa-gen has published here.
    async fn newest_own(&self) -> Result<Image, Problem> {
        let distro = self.args.distro.as_deref().unwrap_or_default();
        let distribution = self.look.catalog.distribution(distro)?;
        let (of, state) = (format!("tag:{}", tags::DISTRIBUTION), format!("tag:{}", tags::STATE));
        let filters = [(of.as_str(), distribution.id.as_str()), (state.as_str(), tags::PUBLISHED)];
        let images = self.look.aws.images(&["self"], &filters).await?;
        images.into_iter().max_by(|one, other| one.created.cmp(&other.created)).ok_or_else(|| {
            let what = format!("{} has no image of {distro} that efa-gen has built", self.look.aws.region);
            let hint = format!("efa-gen build --distro {distro}, or --install: install everything at the first boot");
            Problem::new(what, hint)
        })
    }

    /// Whose login user and cloud-init it is: the image's tag says so, or the user.
    fn distribution(&mut self, image: Option<&Image>) -> Option<&'a Distribution> {
        let tag = image.and_then(|image| image.tags.get(tags::DISTRIBUTION));
        let Some(name) = tag.or(self.args.distro.as_ref()) else {
            let image = image?;
            let what = format!("AMI {} does not say which distribution it is of", image.id);
            self.look.add(Problem::usage(what, "efa-gen has not built it: name its distribution with --distro"));
            return None;
        };
        match self.look.catalog.distribution(name) {
            Ok(distribution) => Some(distribution),
            Err(error) => {
                self.look.add(error);
                None
            }
        }
    }

    async fn reservation(&mut self) -> Option<Reservation> {
        let id = self.args.capacity_reservation.as_ref()?;
        let found = match self.look.aws.reservation(id).await {
            Ok(found) => found,
            Err(error) => {
                self.look.add(error);
                return None;
            }
        };
        let Some(found) = found else {
            let what = format!("{} has no capacity reservation {id}", self.look.aws.region);
            self.look.add(Problem::new(what, "is it in this region and account, or shared with it?"));
            return None;
        };
        let least = i64::from(self.args.at_least.unwrap_or(self.args.nodes));
        if found.kind != self.args.kind {
            let what = format!("reservation {id} is for {}, not for {}", found.kind, self.args.kind);
            self.look.add(Problem::new(what, "give its --type"));
        } else if found.state != "active" {
            let what = format!("reservation {id} is {}", found.state);
            self.look.add(Problem::new(what, "a capacity block becomes active when it begins"));
        } else if i64::from(found.free) < least {
            let what = format!("reservation {id} has {} instances free, {least} are asked for", found.free);
            self.look.add(Problem::new(what, "end what uses it, or launch fewer"));
        }
        Some(found)
    }

    /// EC2's own counts, checked against efa-gen's table.
    fn nics(&mut self, machine: &Machine) -> Vec<Nic> {
        let Machine { kind, info, .. } = machine;
        if let Ok(known) = self.look.catalog.instance_type(kind)
            && known.efa != info.efa
        {
            let note = format!("EC2 says that {kind} has {} EFA devices, efa-gen's table says {}", info.efa, known.efa);
            self.look.notes.push(format!("{note}; EC2's count is taken"));
        }
        match nic::layout(kind, info.efa, info.cards) {
            Ok(nics) => nics,
            Err(error) => {
                self.look.add(error);
                Vec::new()
            }
        }
    }

    /// How the nodes are reached, whether by public addresses of their own, which Session Manager's agent needs too, and by whom.
    async fn way(&mut self, machine: &Machine, nics: usize) -> (Way, bool, Vec<String>) {
        let (args, several) = (self.args, nics > 1);
        let downloads = self.plan.is_some() && args.recipe.mirror.is_none();
        let public = match machine.subnets.first() {
            Some(subnet) => self.look.route(subnet, &args.reach, "the nodes", downloads, args.reach.private).await,
            None => false,
        };
        let way = match (args.reach.session_manager, public, several) {
            (true, ..) => Way::SessionManager,
            (false, true, true) => Way::ThroughLeader,
            (false, true, false) => Way::Public,
            (false, false, _) => Way::Private,
        };
        if several && public && downloads {
            let what = format!(
                "a {} has {nics} interfaces and so no public address: it can't download anything",
                machine.kind
            );
            self.look.add(Problem::new(
                what,
                "launch an image that has everything, or name a --subnet behind a NAT gateway",
            ));
        }
        (way, public && !several, self.look.cidrs(&args.reach, public, "the nodes").await)
    }

    async fn check_group(&mut self, machine: &Machine) {
        let Some(id) = &self.args.security_group else { return };
        match self.look.aws.members(id).await {
            Ok(Some((vpc, members))) => {
                if machine.subnets.first().is_some_and(|subnet| subnet.vpc != vpc) {
                    let what = format!("security group {id} is of {vpc}, the subnets are not");
                    self.look.add(Problem::new(what, "give a --subnet of that VPC"));
                }
                let missing = match (members.inward, members.outward) {
                    (true, true) => return,
                    (false, true) => "in",
                    (true, false) => "out",
                    (false, false) => "in and out",
                };
                let what = format!("security group {id} does not let all traffic of its own members {missing}");
                self.look.add(Problem::new(
                    what,
                    "EFA needs a rule for all traffic that names the group itself, in both directions; every address is not the same",
                ));
            }
            Ok(None) => {
                let what = format!("{} has no security group {id}", self.look.aws.region);
                self.look.add(Problem::new(what, "is it in this region and account?"));
            }
            Err(error) => self.look.add(error),
        }
    }

    /// A reservation has its own placement; a capacity block allows none (aws/aws-parallelcluster, cluster validators).
    fn placement_group(&mut self, machine: &Machine, reservation: Option<&Reservation>) -> bool {
        if self.args.no_placement_group || reservation.is_some() {
            return false;
        }
        if !machine.info.clusters {
            let note = format!("{} can't be in a placement group `cluster`, so there is none", machine.kind);
            self.look.notes.push(note);
        }
        machine.info.clusters
    }

    fn root_gib(&mut self, image: Option<&Image>) -> i32 {
        let planned = self.plan.map_or(0, |plan| i32::try_from(plan.base.root_gib).unwrap_or(i32::MAX));
        let needed = image.map_or(0, |image| image.root_gib).max(planned);
        let asked = self.args.root_gib.map(i32::from);
        if let Some(asked) = asked.filter(|asked| *asked < needed) {
            let what = format!("--root-gib {asked} is too small: {needed} GiB are needed");
            self.look.add(Problem::new(what, format!("leave it out, or give {needed} or more")));
        }
        asked.unwrap_or(needed)
    }

    /// What can be asked without making anything.
    async fn dry_runs(&mut self, ready: &Ready) {
        let (Some(subnet), aws) = (ready.machine.subnets.first(), self.look.aws) else { return };
        let name = "efa-gen-dry-run";
        let mut tags = tags::own(&self.args.tag).unwrap_or_default();
        tags.insert(tags::CLUSTER.into(), ready.name.clone());
        let key = crate::ssh::new_key(name).map(|pair| pair.public).unwrap_or_default();
        let mut answers = vec![
            aws.import_key(name, &key, &tags, true).await.err(),
            aws.launch(&Launch { tags: tags.clone(), ..nodes::request(self.args, ready, subnet) }, true).await.err(),
        ];
        if self.args.security_group.is_none() {
            answers.push(aws.create_group(name, "efa-gen dry run", &subnet.vpc, &tags, true).await.err());
        }
        if ready.placement_group {
            answers.push(aws.create_placement_group(name, &tags, true).await.err());
        }
        if ready.way == Way::ThroughLeader {
            answers.push(aws.allocate_address(&tags, true).await.err());
        }
        for error in answers.into_iter().flatten().filter(|error| !error.is_dry_run()) {
            self.look.add(error);
        }
    }
}
