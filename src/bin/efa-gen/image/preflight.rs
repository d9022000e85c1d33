//! Owns what is found out before anything is made: who pays, from which AMI, where, by which name, and every reason why
//! the build would fail. It only reads, and asks by dry run.

use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::catalog::nic_layout::{self, Nic};
use efa_gen::error::Result;
use efa_gen::plan::Plan;
use jiff::Timestamp;
use serde::Serialize;

use super::{manifest_file, publish};
use crate::aws::Aws;
use crate::aws::error::ApiError;
use crate::aws::model::{Identity, Image, LaunchRun, LaunchSpec, Subnet, Tags};
use crate::cli::cloud::{BuildArgs, BuildDriver, HostKey};
use crate::cluster::preflight::{cluster_tags, node_tags};
use crate::io::ssh::dry_run_key;
use crate::preflight::access;
use crate::preflight::base_ami::{named, newest_base};
use crate::preflight::context::PreflightContext;
use crate::preflight::placement::{InstancePlacement, MachineRequirements};
use crate::preflight::problem::Problem;
use crate::run::ledger::published_here;
use crate::run::resources::name;
use crate::run::{ownership, tags};

/// Everything that the build needs to know of the account; every choice is made here.
#[derive(Debug, Clone, Serialize)]
pub struct ResolvedBuild {
    pub identity: Identity,
    pub region: String,
    pub base: Image,
    pub builder: InstancePlacement,
    /// The machines on which the image is tested before it is published.
    pub gate: Option<InstancePlacement>,
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

/// Machines of a gate: as few as make a network test.
pub const GATE_NODES: u32 = 2;

/// The flags that name types, and what to think of besides.
const BUILDER: &str = "--builder-type, which needs no GPU and no EFA";
const GATE: &str = "--gate";

/// One preflight.
pub struct BuildPreflight<'a> {
    pub context: PreflightContext<'a>,
    pub plan: &'a Plan,
    pub distribution: &'a Distribution,
    pub args: &'a BuildArgs,
    /// The run's id: on every dry run, as on whatever the run makes.
    pub id: &'a str,
    /// The run that goes on, whose own half-made image does not stand in its way.
    pub run: Option<&'a str>,
    /// Who can't keep the builder from the public address that a subnet gives; none if there is nobody.
    pub addressed_by_subnet: Option<String>,
}

impl<'a> BuildPreflight<'a> {
    pub fn new(
        aws: &'a Aws,
        catalog: &'a Catalog,
        plan: &'a Plan,
        args: &'a BuildArgs,
        id: &'a str,
        resumed: bool,
    ) -> Result<Self> {
        let distribution = catalog.distribution(&plan.distribution)?;
        let context = PreflightContext::new(aws, catalog);
        Ok(BuildPreflight {
            context,
            plan,
            distribution,
            args,
            id,
            run: resumed.then_some(id),
            addressed_by_subnet: None,
        })
    }

    /// Asks everything; the problems are all of them, not the first.
    pub async fn run(mut self) -> std::result::Result<ResolvedBuild, Vec<Problem>> {
        self.check_flags();
        let Some(identity) = self.context.identity().await else { return Err(self.context.problems) };
        let base = self.base().await;
        let args = self.args;
        let builder =
            self.context.machine(&args.builder.builder_type, &self.requirements(BUILDER, base.as_ref())).await;
        let gate = match &self.args.publish.gate {
            Some(kind) => self.context.machine(kind, &self.requirements(GATE, base.as_ref())).await,
            None => None,
        };
        let public_address = match builder.as_ref().and_then(|builder| builder.subnets.first()) {
            Some(subnet) => {
                self.check_private(subnet);
                let downloads = args.recipe.mirror.is_none();
                self.context.route(subnet, &args.reach, "the builder", downloads, args.reach.private).await
            }
            None => false,
        };
        let ssh_cidrs = self.context.cidrs(&args.reach, public_address, "the builder").await;
        if let Some(gate) = &gate {
            self.check_gate(gate);
        }
        let id = base.as_ref().map_or("", |base| base.id.as_str());
        self.context.check_agent(&args.reach, self.distribution, id, args.builder.source_ami.is_none());
        let root_gib = self.root_gib(base.as_ref());
        let image = self.image(base.as_ref()).await;
        let (Some(base), Some(builder), Some((name, existing))) = (base, builder, image) else {
            return Err(self.context.problems);
        };
        let mut resolved = ResolvedBuild {
            tags: self.tags(&base),
            region: self.context.aws.region.clone(),
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
        if resolved.existing.is_none() {
            self.dry_runs(&resolved).await;
        }
        resolved.notes = self.context.notes;
        if self.context.problems.is_empty() { Ok(resolved) } else { Err(self.context.problems) }
    }

    /// The gate's machines are a cluster's: on demand, and their host keys come by the console.
    fn requirements<'r>(&self, flag: &'r str, base: Option<&'r Image>) -> MachineRequirements<'r>
    where
        'a: 'r,
    {
        let gate = flag == GATE;
        let console = self.args.builder.host_key == HostKey::Console && self.args.driver == BuildDriver::Native;
        MachineRequirements {
            flag,
            architecture: Some((&self.plan.base.architecture, "the plan")),
            // An image has the boot mode of what it is made from.
            image: base,
            subnet: self.args.builder.subnet.as_deref(),
            spot: self.args.builder.spot && !gate,
            console: console || gate,
            quota: true,
            count: if gate { GATE_NODES } else { 1 },
        }
    }

    /// What can be said without asking anybody.
    fn check_flags(&mut self) {
        let BuildArgs { publish, builder, reach, .. } = self.args;
        let encrypted = !builder.no_encrypt;
        let now = Timestamp::now();
        let found = publish::check(publish, encrypted, builder.kms_key.as_deref(), &self.context.aws.region, now);
        self.context.problems.extend(found);
        if let Err(error) = tags::own(&builder.tag) {
            self.context.add(error);
        }
        // Packer has a way of its own; a gate is ours with both.
        let packers = self.args.driver == BuildDriver::Packer && publish.gate.is_none();
        let carriers = if packers { &[][..] } else { &access::CARRIERS };
        self.context.problems.extend(access::check_reach(reach, carriers));
        if let (Some(gate), true) = (&publish.gate, self.args.recipe.no_gpu) {
            let what = format!("--gate {gate} has nothing to run: --no-gpu leaves no NCCL in the image");
            self.context.add(Problem::usage(what, "leave out one of them"));
        }
    }

    /// With `--private` no machine gets a public address; see `addressed_by_subnet`.
    fn check_private(&mut self, subnet: &Subnet) {
        let Some(who) =
            self.addressed_by_subnet.as_ref().filter(|_| self.args.reach.private && subnet.public_addresses)
        else {
            return;
        };
        let what = format!("--private: subnet {} gives public addresses, and {who} can't do without", subnet.id);
        let hint = "choose a --subnet that gives none, or use Packer 1.7 or newer";
        self.context.add(Problem::new(what, hint));
    }

    /// The gate is a cluster of two: each machine needs EFA and a GPU.
    fn check_gate(&mut self, gate: &InstancePlacement) {
        let InstancePlacement { instance_type: kind, info, .. } = gate;
        if let Err(error) = nic_layout::layout(kind, info.efa, info.cards) {
            self.context.add(error);
        }
        if info.gpus == 0 {
            let what = format!("--gate {kind} has no GPU: the NCCL test needs one");
            self.context.add(Problem::new(what, "name the type that the image is for"));
        }
    }

    /// The AMI to start from.
    async fn base(&mut self) -> Option<Image> {
        let found = match &self.args.builder.source_ami {
            Some(id) => named(&self.context, id).await,
            None => newest_base(&mut self.context, self.distribution, &self.plan.base.architecture).await,
        };
        let base = found.map_err(|problem| self.context.add(problem)).ok()?;
        let wanted = &self.plan.base.architecture;
        if base.architecture != *wanted {
            let what = format!(
                "AMI {} is for {}, {} is built for {wanted}",
                base.id, base.architecture, self.plan.distribution
            );
            self.context.add(Problem::new(what, "choose an AMI of the other architecture"));
        }
        if let Some(planned) =
            self.plan.instance_type.as_ref().and_then(|kind| self.context.catalog.instance_type(kind).ok())
            && ![Some(&self.args.builder.builder_type), self.args.publish.gate.as_ref()].contains(&Some(&planned.name))
        {
            self.context.check_boot_mode(&planned.name, &planned.boot_modes, &base);
        }
        if base.state != "available" {
            self.context.add(Problem::new(format!("AMI {} is {}", base.id, base.state), "wait until it is available"));
        }
        if base.root_device.is_empty() || base.root_gib == 0 {
            let what = format!("AMI {} has no EBS root volume", base.id);
            self.context.add(Problem::new(what, "an image can be made of an EBS-backed machine alone"));
        }
        Some(base)
    }

    /// The image's name, and what has that name already. Without a base only a name that is given is known.
    async fn image(&mut self, base: Option<&Image>) -> Option<(String, Option<Image>)> {
        let publish = &self.args.publish;
        let name = publish.name.clone().or_else(|| base.map(|base| self.default_name(base)))?;
        let existing = self.existing(base, &name).await;
        if existing.is_none() {
            let found = publish::check_regions(self.context.aws, publish, &name, self.run).await;
            self.context.problems.extend(found);
        }
        Some((name, existing))
    }

    fn root_gib(&mut self, base: Option<&Image>) -> i32 {
        let of_base = base.map_or(0, |base| base.root_gib);
        let needed = i32::try_from(self.plan.base.root_gib).unwrap_or(i32::MAX).max(of_base);
        match self.args.builder.root_gib.map(i32::from) {
            Some(asked) if asked < needed => {
                let what = format!("--root-gib {asked} is too small: the plan and its base AMI need {needed} GiB");
                self.context.add(Problem::new(what, format!("leave it out, or give {needed} or more")));
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
        let found = match self.context.aws.images(&["self"], &[("name", name)]).await {
            Ok(found) => found,
            Err(error) => {
                self.context.add(error);
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
                if ownership::image(&image).is_ok()
                    && same(&image)
                    && image.tags.get(tags::STATE).map(String::as_str) == Some(tags::PUBLISHED)
                    && !self.args.force =>
            {
                if let Err(unknown) = self.vouch(&image, &digest).await {
                    self.context.add(unknown);
                    return None;
                }
                if self.args.publish.gate.is_some() && image.tags.get(tags::VERDICT).is_none_or(|word| word != "passed")
                {
                    let what = format!("{} is there already, and no gate has tested it", image.id);
                    self.context.add(Problem::new(what, format!("{} builds and tests another one", self.force())));
                }
                // The other way round says nothing: the account may encrypt whatever is asked for.
                if !image.encrypted && !self.args.builder.no_encrypt {
                    let what = format!("{} is there already, and it is not encrypted", image.id);
                    self.context.add(Problem::new(what, format!("{} builds another one", self.force())));
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
                self.context.add(Problem::new(format!("the name {name} is taken by {}", image.id), hint));
                None
            }
        }
    }

    /// Whether something besides the image's own name and tags, which anybody may have given, says that efa-gen has made it of
    /// this plan: the ledger on this machine, the manifest, the parameter, or the user.
    async fn vouch(&self, image: &Image, plan: &str) -> std::result::Result<(), Problem> {
        let publish = &self.args.publish;
        let run = image.tags.get(tags::RUN).map(String::as_str).unwrap_or_default();
        if self.args.reuse || published_here(run, &image.id, plan)? {
            return Ok(());
        }
        if let Some(path) = &publish.manifest
            && manifest_file::holds(path, &image.id, plan)?
        {
            return Ok(());
        }
        if let Some(name) = &publish.ssm_parameter
            && self.context.aws.parameter(name).await?.as_deref() == Some(&image.id)
        {
            return Ok(());
        }
        let what = format!(
            "{} has the name and the tags of this image, and nothing here knows that efa-gen has made it: made by run {run} on {}",
            image.id,
            image.created.get(..10).unwrap_or(&image.created)
        );
        let hint = format!(
            "--reuse takes it as it is; {} builds another one; a --manifest or --ssm-parameter that names it is a proof, too",
            self.force()
        );
        Err(Problem::new(what, hint))
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
            self.context.notes.push(note);
        }
        if builder.kms_key.is_some() {
            self.context
                .notes
                .push(format!("{id} is there already; which KMS key it is encrypted with is not looked at"));
        }
    }

    fn tags(&self, base: &Image) -> Tags {
        let mut all = tags::own(&self.args.builder.tag).unwrap_or_default();
        all.extend(tags::of_plan(self.plan));
        all.insert(tags::BASE.into(), base.id.clone());
        all.insert(tags::BASE_NAME.into(), base.name.clone());
        all
    }

    /// What can be asked without making anything, with the tags that the real calls have: a policy may allow nothing else.
    /// Stop, CreateImage and the like need an instance to be asked about; CopyImage an image of ours, because a base may not
    /// be copied by anybody; PutParameter has no dry run.
    async fn dry_runs(&mut self, resolved: &ResolvedBuild) {
        let Some(subnet) = resolved.builder.subnets.first() else { return };
        let name = "efa-gen-dry-run";
        let key = dry_run_key(name, self.args.reach.key_type);
        let tags = run_tags(resolved, self.id);
        let deadline = deadline(self.args);
        let spec = launch_spec(self.args, self.plan, resolved, &resolved.builder, subnet);
        let launch = LaunchRun::dry((1, 1), builder_tags(resolved, self.id, deadline));
        let mut answers = vec![
            self.context.aws.create_group(name, "efa-gen dry run", &subnet.vpc, &tags, true).await.err(),
            self.context.aws.launch(&spec, &launch, true).await.err(),
        ];
        if let Some(key) = &key {
            answers.push(self.context.aws.import_key(name, key, &tags, true).await.err());
        }
        if let Some(gate) = &resolved.gate {
            let of_cluster = cluster_tags(&self.args.builder.tag, self.id, &gate_name(self.id));
            let of_node = node_tags(&of_cluster, deadline);
            if let Some(subnet) = gate.subnets.first() {
                // The image is yet to be made; the right to launch the type is asked for with the base AMI.
                let spec = launch_spec(self.args, self.plan, resolved, gate, subnet);
                let nics = vec![Nic { card: 0, device: 0, kind: nic_layout::NicKind::Interface }];
                let launch = LaunchRun::dry((GATE_NODES, GATE_NODES), of_node.clone());
                answers.push(
                    self.context.aws.launch(&LaunchSpec { spot: false, nics, ..spec }, &launch, true).await.err(),
                );
            }
            if gate.info.clusters {
                answers.push(self.context.aws.create_placement_group(name, &of_cluster, true).await.err());
                if takes_address(gate, resolved, self.args) {
                    answers.push(self.context.aws.allocate_address(&of_node, true).await.err());
                }
            }
        }
        // A zone without room now is no reason: the launch tries the others, and later.
        answers.retain(|answer| !answer.as_ref().is_some_and(ApiError::is_capacity));
        self.context.add_dry_runs(answers);
    }
}

/// On whatever a run makes.
pub fn run_tags(resolved: &ResolvedBuild, run: &str) -> Tags {
    let mut all = resolved.tags.clone();
    all.insert(tags::RUN.into(), run.to_owned());
    all.insert("Name".into(), name(run));
    all
}

/// On a run's builder, which ends itself at the deadline (seconds since 1970).
pub fn builder_tags(resolved: &ResolvedBuild, run: &str, deadline: i64) -> Tags {
    let mut all = run_tags(resolved, run);
    all.insert(tags::ROLE.into(), tags::BUILDER.into());
    all.insert(tags::UNTIL.into(), tags::until_second(deadline));
    all
}

/// When a machine that is launched now ends itself, in seconds since 1970.
pub fn deadline(args: &BuildArgs) -> i64 {
    Timestamp::now().as_second() + i64::from(args.builder.deadline) * 60
}

/// Name of the cluster on which a run's image is tested.
pub fn gate_name(run: &str) -> String {
    format!("gate-{run}")
}

/// Whether the first machine of a gate is reached by an elastic address: with several interfaces none has another public one.
pub fn takes_address(gate: &InstancePlacement, resolved: &ResolvedBuild, args: &BuildArgs) -> bool {
    gate.info.efa > 1 && resolved.public_address && !args.reach.session_manager
}

/// A launch of this type in this subnet.
pub fn launch_spec(
    args: &BuildArgs,
    plan: &Plan,
    resolved: &ResolvedBuild,
    machine: &InstancePlacement,
    subnet: &Subnet,
) -> LaunchSpec {
    LaunchSpec {
        image: resolved.base.id.clone(),
        instance_type: machine.instance_type.clone(),
        subnet: subnet.id.clone(),
        root_device: resolved.base.root_device.clone(),
        root_gib: resolved.root_gib,
        kms_key: args.builder.kms_key.clone(),
        encrypted: Some(!args.builder.no_encrypt),
        imds_v2: plan.base.imdsv2,
        public_address: Some(resolved.public_address),
        // One device is all that a build or a test on one machine needs.
        nics: vec![Nic {
            card: 0,
            device: 0,
            kind: if machine.info.efa > 0 { nic_layout::NicKind::Efa } else { nic_layout::NicKind::Interface },
        }],
        spot: args.builder.spot,
        reservation: None,
        profile: args.reach.instance_profile.clone(),
    }
}
