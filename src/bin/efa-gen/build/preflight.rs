//! Owns what is found out before anything is made: who pays, from which AMI, where, by which name, and every reason why
//! the build would fail. It only reads, and asks by dry run. Knows nothing of how a build goes on.

use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::cluster::nic::{self, Nic};
use efa_gen::error::Result;
use efa_gen::plan::Plan;
use jiff::Timestamp;
use serde::Serialize;

use super::base::{named, newest_base};
use super::problem::Problem;
use super::{gate, publish, tags};
use crate::cli::cloud::{BuildArgs, Driver, HostKey};
use crate::ec2::Aws;
use crate::ec2::model::{Identity, Image, Launch, Subnet, Tags};
use crate::ec2::refusal::ApiError;
use crate::place::{self, Look, Machine, Wish};

/// Everything that the build needs to know of the account; every choice is made here.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    pub identity: Identity,
    pub region: String,
    pub base: Image,
    pub builder: Machine,
    /// The machines on which the image is tested before it is published.
    pub gate: Option<Machine>,
    pub public_address: bool,
    pub ssh_cidrs: Vec<String>,
    pub root_gib: i32,
    /// Name of the image to be.
    pub name: String,
    /// An image of the same plan on the same base.
    pub existing: Option<Image>,
    pub notes: Vec<String>,
    #[serde(skip)]
    pub tags: Tags,
}

/// The flags that name types, and what to think of besides.
const BUILDER: &str = "--builder-type, which needs no GPU and no EFA";
const GATE: &str = "--gate";

/// One preflight.
pub struct Preflight<'a> {
    pub look: Look<'a>,
    pub plan: &'a Plan,
    pub distribution: &'a Distribution,
    pub args: &'a BuildArgs,
    /// The run that goes on, whose own half-made image does not stand in its way.
    pub run: Option<&'a str>,
}

impl<'a> Preflight<'a> {
    pub fn new(
        aws: &'a Aws,
        catalog: &'a Catalog,
        plan: &'a Plan,
        args: &'a BuildArgs,
        run: Option<&'a str>,
    ) -> Result<Self> {
        let distribution = catalog.distribution(&plan.distribution)?;
        Ok(Preflight { look: Look::new(aws, catalog), plan, distribution, args, run })
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
        let base = self.base().await;
        let args = self.args;
        let builder = self.look.machine(&args.builder.builder_type, &self.wish(BUILDER)).await;
        let gate = match &self.args.publish.gate {
            Some(kind) => self.look.machine(kind, &self.wish(GATE)).await,
            None => None,
        };
        let public_address = match builder.as_ref().and_then(|builder| builder.subnets.first()) {
            Some(subnet) => {
                // To Packer, the subnet says who has a public address.
                let without = args.reach.private && args.driver == Driver::Native;
                self.look.route(subnet, &args.reach, "the builder", args.recipe.mirror.is_none(), without).await
            }
            None => false,
        };
        let ssh_cidrs = self.look.cidrs(&args.reach, public_address, "the builder").await;
        if let Some(gate) = &gate {
            self.check_gate(gate);
        }
        let id = base.as_ref().map_or("", |base| base.id.as_str());
        self.look.check_agent(&args.reach, self.distribution, id, args.builder.source_ami.is_none());
        let root_gib = self.root_gib(base.as_ref());
        let image = self.image(base.as_ref()).await;
        let (Some(base), Some(builder), Some((name, existing))) = (base, builder, image) else {
            return Err(self.look.problems);
        };
        let mut ready = Ready {
            tags: self.tags(&base),
            region: self.look.aws.region.clone(),
            notes: Vec::new(),
            identity,
            base,
            builder,
            gate,
            public_address,
            ssh_cidrs,
            root_gib,
            name,
            existing,
        };
        if ready.existing.is_none() {
            self.dry_runs(&ready).await;
        }
        ready.notes = self.look.notes;
        if self.look.problems.is_empty() { Ok(ready) } else { Err(self.look.problems) }
    }

    /// The gate's machines are a cluster's: on demand, and their host keys come by the console.
    fn wish(&self, flag: &'static str) -> Wish<'a> {
        let gate = flag == GATE;
        let console = self.args.builder.host_key == HostKey::Console && self.args.driver == Driver::Native;
        Wish {
            flag,
            architecture: Some((&self.plan.base.architecture, "the plan")),
            subnet: self.args.builder.subnet.as_deref(),
            spot: self.args.builder.spot && !gate,
            console: console || gate,
            quota: true,
            count: if gate { gate::NODES } else { 1 },
        }
    }

    /// What can be said without asking anybody.
    fn check_flags(&mut self) {
        let BuildArgs { publish, builder, reach, .. } = self.args;
        let encrypted = !builder.no_encrypt;
        let now = Timestamp::now();
        let found = publish::check(publish, encrypted, builder.kms_key.as_deref(), &self.look.aws.region, now);
        self.look.problems.extend(found);
        if let Err(error) = tags::own(&builder.tag) {
            self.look.add(error);
        }
        // Packer has a way of its own; a gate is ours with both.
        let packers = self.args.driver == Driver::Packer && publish.gate.is_none();
        let carriers = if packers { &[][..] } else { &place::CARRIERS };
        self.look.problems.extend(place::check_reach(reach, carriers));
        if let (Some(gate), true) = (&publish.gate, self.args.recipe.no_gpu) {
            let what = format!("--gate {gate} has nothing to run: --no-gpu leaves no NCCL in the image");
            self.look.add(Problem::usage(what, "leave out one of them"));
        }
    }

    /// The gate is a cluster of two: each machine needs EFA and a GPU.
    fn check_gate(&mut self, gate: &Machine) {
        let Machine { kind, info, .. } = gate;
        if let Err(error) = nic::layout(kind, info.efa, info.cards) {
            self.look.add(error);
        }
        if info.gpus == 0 {
            let what = format!("--gate {kind} has no GPU: the NCCL test needs one");
            self.look.add(Problem::new(what, "name the type that the image is for"));
        }
    }

    /// The AMI to start from.
    async fn base(&mut self) -> Option<Image> {
        let found = match &self.args.builder.source_ami {
            Some(id) => named(&self.look, id).await,
            None => newest_base(&mut self.look, self.distribution, &self.plan.base.architecture).await,
        };
        let base = found.map_err(|problem| self.look.add(problem)).ok()?;
        let wanted = &self.plan.base.architecture;
        if base.architecture != *wanted {
            let what = format!(
                "AMI {} is for {}, {} is built for {wanted}",
                base.id, base.architecture, self.plan.distribution
            );
            self.look.add(Problem::new(what, "choose an AMI of the other architecture"));
        }
        if base.state != "available" {
            self.look.add(Problem::new(format!("AMI {} is {}", base.id, base.state), "wait until it is available"));
        }
        if base.root_device.is_empty() || base.root_gib == 0 {
            let what = format!("AMI {} has no EBS root volume", base.id);
            self.look.add(Problem::new(what, "an image can be made of an EBS-backed machine alone"));
        }
        Some(base)
    }

    /// The image's name, and what has that name already. Without a base only a name that is given is known.
    async fn image(&mut self, base: Option<&Image>) -> Option<(String, Option<Image>)> {
        let publish = &self.args.publish;
        let name = publish.name.clone().or_else(|| base.map(|base| self.default_name(base)))?;
        let existing = self.existing(base, &name).await;
        if existing.is_none() {
            let found = publish::check_regions(self.look.aws, publish, &name, self.run).await;
            self.look.problems.extend(found);
        }
        Some((name, existing))
    }

    fn root_gib(&mut self, base: Option<&Image>) -> i32 {
        let of_base = base.map_or(0, |base| base.root_gib);
        let needed = i32::try_from(self.plan.base.root_gib).unwrap_or(i32::MAX).max(of_base);
        match self.args.builder.root_gib.map(i32::from) {
            Some(asked) if asked < needed => {
                let what = format!("--root-gib {asked} is too small: the plan and its base AMI need {needed} GiB");
                self.look.add(Problem::new(what, format!("leave it out, or give {needed} or more")));
                needed
            }
            asked => asked.unwrap_or(needed),
        }
    }

    /// The same plan on the same base has the same name.
    fn default_name(&self, base: &Image) -> String {
        let digest = self.plan.digest();
        let base = base.id.trim_start_matches("ami-");
        let base = &base[..base.len().min(8)];
        let name = format!("efa-gen-{}-{}-{}-{base}", self.plan.distribution, self.plan.stack, &digest[..12]);
        if self.args.force { format!("{name}-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S")) } else { name }
    }

    /// An image that need not be built again. One that has the name and is another is a problem.
    async fn existing(&mut self, base: Option<&Image>, name: &str) -> Option<Image> {
        let digest = self.plan.digest();
        let found = match self.look.aws.images(&["self"], &[("name", name)]).await {
            Ok(found) => found,
            Err(error) => {
                self.look.add(error);
                return None;
            }
        };
        let same = |image: &Image| {
            let of_base = base.is_none_or(|base| image.tags.get(tags::BASE) == Some(&base.id));
            of_base && image.tags.get(tags::PLAN) == Some(&digest)
        };
        match found.into_iter().next() {
            None => None,
            Some(image) if image.tags.get(tags::RUN).is_some_and(|run| Some(run.as_str()) == self.run) => None,
            Some(image)
                if same(&image)
                    && image.tags.get(tags::STATE).map(String::as_str) == Some(tags::PUBLISHED)
                    && !self.args.force =>
            {
                if self.args.publish.gate.is_some() && image.tags.get(tags::VERDICT).is_none_or(|word| word != "passed")
                {
                    let what = format!("{} is there already, and no gate has tested it", image.id);
                    self.look.add(Problem::new(what, format!("{} builds and tests another one", self.force())));
                }
                // The other way round says nothing: the account may encrypt whatever is asked for.
                if !image.encrypted && !self.args.builder.no_encrypt {
                    let what = format!("{} is there already, and it is not encrypted", image.id);
                    self.look.add(Problem::new(what, format!("{} builds another one", self.force())));
                }
                self.note_what_stays(&image);
                Some(image)
            }
            Some(image) => {
                let run = image.tags.get(tags::RUN);
                let state = image.tags.get(tags::STATE).map(String::as_str);
                let hint = match run {
                    _ if state == Some(tags::REFUSED) => {
                        format!("it did not pass its gate: efa-gen image rm {}, or --force", image.id)
                    }
                    Some(run) if state != Some(tags::PUBLISHED) && !self.args.force => format!(
                        "another run left it unfinished: efa-gen build --resume {run}, or efa-gen sweep --run {run}"
                    ),
                    _ => "choose another --name, or remove that image: efa-gen image rm".to_owned(),
                };
                self.look.add(Problem::new(format!("the name {name} is taken by {}", image.id), hint));
                None
            }
        }
    }

    /// What builds another image beside one of the same plan.
    fn force(&self) -> &'static str {
        if self.args.publish.name.is_some() { "--force with another --name" } else { "--force" }
    }

    /// What was asked for of an image that is there already and is not done to it.
    fn note_what_stays(&mut self, image: &Image) {
        let (builder, id) = (&self.args.builder, &image.id);
        let tags = tags::own(&builder.tag).unwrap_or_default();
        let missing = tags.iter().filter(|(key, value)| image.tags.get(*key) != Some(value));
        let mut flags: Vec<String> = missing.map(|(key, value)| format!("--tag {key}={value}")).collect();
        let root_gib = builder.root_gib.filter(|asked| i32::from(*asked) != image.root_gib);
        flags.extend(root_gib.map(|asked| format!("--root-gib {asked} (it has {})", image.root_gib)));
        if !flags.is_empty() {
            let (flags, force) = (flags.join(", "), self.force());
            let note = format!("{id} is there already and stays as it is, without {flags}: {force} builds another one");
            self.look.notes.push(note);
        }
        if builder.kms_key.is_some() {
            self.look.notes.push(format!("{id} is there already; which KMS key it is encrypted with is not looked at"));
        }
    }

    fn tags(&self, base: &Image) -> Tags {
        let mut all = tags::own(&self.args.builder.tag).unwrap_or_default();
        all.extend(tags::of_plan(self.plan));
        all.insert(tags::BASE.into(), base.id.clone());
        all.insert(tags::BASE_NAME.into(), base.name.clone());
        all
    }

    /// What can be asked without making anything. Stop, CreateImage and the like need an instance to be asked about; CopyImage
    /// an image of ours, because a base may not be copied by anybody; PutParameter has no dry run.
    async fn dry_runs(&mut self, ready: &Ready) {
        let Some(subnet) = ready.builder.subnets.first() else { return };
        let name = "efa-gen-dry-run";
        let key = crate::ssh::new_key("efa-gen-dry-run").map(|pair| pair.public).unwrap_or_default();
        let launch = launch(self.args, self.plan, ready, &ready.builder, subnet);
        let mut answers = vec![
            self.look.aws.import_key(name, &key, &ready.tags, true).await.err(),
            self.look.aws.create_group(name, "efa-gen dry run", &subnet.vpc, &ready.tags, true).await.err(),
            self.look.aws.launch(&launch, true).await.err(),
        ];
        if let Some(gate) = &ready.gate {
            if let Some(subnet) = gate.subnets.first() {
                // The image is yet to be made; the right to launch the type is asked for with the base AMI.
                let launch = self::launch(self.args, self.plan, ready, gate, subnet);
                let nics = vec![Nic { card: 0, device: 0, kind: nic::Kind::Interface }];
                answers.push(self.look.aws.launch(&Launch { spot: false, nics, ..launch }, true).await.err());
            }
            if gate.info.clusters {
                answers.push(self.look.aws.create_placement_group(name, &ready.tags, true).await.err());
                if takes_address(gate, ready, self.args) {
                    answers.push(self.look.aws.allocate_address(&ready.tags, true).await.err());
                }
            }
        }
        // A zone without room now is no reason: the launch tries the others, and later.
        let reasons = |error: &ApiError| !error.is_dry_run() && !error.is_capacity();
        for error in answers.into_iter().flatten().filter(reasons) {
            self.look.add(error);
        }
    }
}

/// Whether the first machine of a gate is reached by an elastic address: with several interfaces none has another public one.
pub fn takes_address(gate: &Machine, ready: &Ready, args: &BuildArgs) -> bool {
    gate.info.efa > 1 && ready.public_address && !args.reach.session_manager
}

/// The launch of a machine without its key pair, group, user-data and token, which come later.
pub fn launch(args: &BuildArgs, plan: &Plan, ready: &Ready, machine: &Machine, subnet: &Subnet) -> Launch {
    Launch {
        image: ready.base.id.clone(),
        kind: machine.kind.clone(),
        count: (1, 1),
        subnet: subnet.id.clone(),
        group: String::new(),
        key: String::new(),
        user_data: Vec::new(),
        token: String::new(),
        root_device: ready.base.root_device.clone(),
        root_gib: ready.root_gib,
        kms_key: args.builder.kms_key.clone(),
        encrypted: Some(!args.builder.no_encrypt),
        imds_v2: plan.base.imdsv2,
        public_address: Some(ready.public_address),
        // One device is all that a build or a test on one machine needs.
        nics: vec![Nic {
            card: 0,
            device: 0,
            kind: if machine.info.efa > 0 { nic::Kind::Efa } else { nic::Kind::Interface },
        }],
        spot: args.builder.spot,
        placement_group: None,
        reservation: None,
        profile: args.reach.instance_profile.clone(),
        tags: ready.tags.clone(),
    }
}
