//! Owns the table of AWS's actions: each one's IAM name, who needs it, and by what a policy can limit it. A call that is
//! not in the table is refused before it is sent.

use aws_sdk_ec2::config::interceptors::BeforeSerializationInterceptorContextRef;
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

/// What somebody may be allowed to do with efa-gen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    Build,
    Publish,
    Gate,
    Launch,
    Sweep,
    Packer,
    SessionManager,
}

use Use::{Build, Gate, Launch, Packer, Publish, SessionManager, Sweep};

impl Use {
    /// As `efa-gen permissions --for` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Build => "build",
            Publish => "publish",
            Gate => "gate",
            Launch => "launch",
            Sweep => "sweep",
            Packer => "packer",
            SessionManager => "session-manager",
        }
    }
}

/// What a policy can limit an action by. Kinds of resources are those of AWS's Service Authorization Reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It reads, and shows nothing secret.
    Reads,
    /// It makes resources of these kinds, which have the run's tag from the call on.
    Makes(&'static [&'static str]),
    /// The same, out of resources that have the run's tag, or with others that are anybody's.
    MakesOf { made: &'static [&'static str], of_run: bool, uses: &'static [&'static str] },
    /// It changes or removes what has the run's tag.
    Changes,
    /// It tags what these uses of it have made: what a call makes is tagged by the call.
    Tags(&'static [Use]),
    /// It reads or writes a parameter of Parameter Store.
    Parameter,
    /// It makes, changes or uses resources of these kinds (none named: any) that have no tag at that moment.
    Untagged(&'static [&'static str]),
}

/// An action, and who needs it.
#[derive(Debug, Clone, Copy)]
pub struct ApiAction {
    /// `ec2`.
    pub service: &'static str,
    /// `RunInstances`.
    pub call: &'static str,
    pub uses: &'static [Use],
    pub limit: Limit,
}

impl ApiAction {
    /// `ec2:RunInstances`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.service, self.call)
    }
}

const fn ec2(call: &'static str, uses: &'static [Use], limit: Limit) -> ApiAction {
    ApiAction { service: "ec2", call, uses, limit }
}

const fn other(service: &'static str, call: &'static str, uses: &'static [Use], limit: Limit) -> ApiAction {
    ApiAction { service, call, uses, limit }
}

const IMAGE: &[&str] = &["image", "snapshot"];

const INSTANCE: Limit = Limit::MakesOf {
    made: &["instance", "network-interface", "spot-instances-request", "volume"],
    of_run: false,
    uses: &["capacity-reservation", "image", "key-pair", "placement-group", "security-group", "subnet"],
};

/// What every run lists when it looks for what it has left.
const LISTS: &[Use] = &[Build, Publish, Gate, Launch, Sweep];

/// Every action that efa-gen itself asks for.
#[rustfmt::skip]
pub const ACTIONS: [ApiAction; 44] = [
    ec2("AllocateAddress", &[Gate, Launch], Limit::Makes(&["elastic-ip"])),
    ec2("AssociateAddress", &[Gate, Launch], Limit::Changes),
    ec2("AuthorizeSecurityGroupEgress", &[Build, Gate, Launch], Limit::Changes),
    ec2("AuthorizeSecurityGroupIngress", &[Build, Gate, Launch, Packer], Limit::Changes),
    // A copy is asked about its source as well, of which no tag can be asked (AWS Service Authorization Reference).
    ec2("CopyImage", &[Publish], Limit::MakesOf { made: IMAGE, of_run: false, uses: &["image"] }),
    ec2("CreateImage", &[Build, Packer], Limit::MakesOf { made: IMAGE, of_run: true, uses: &[] }),
    ec2("CreatePlacementGroup", &[Gate, Launch], Limit::Makes(&["placement-group"])),
    ec2("CreateSecurityGroup", &[Build, Gate, Launch, Packer],
        Limit::MakesOf { made: &["security-group"], of_run: false, uses: &["vpc"] }),
    ec2("CreateTags", &[Build, Publish, Gate, Launch, Sweep, Packer], Limit::Tags(&[Build, Publish, Gate, Sweep, Packer])),
    ec2("DeleteKeyPair", &[Build, Gate, Launch, Sweep, Packer], Limit::Changes),
    ec2("DeletePlacementGroup", &[Gate, Launch, Sweep], Limit::Changes),
    ec2("DeleteSecurityGroup", &[Build, Gate, Launch, Sweep, Packer], Limit::Changes),
    ec2("DeleteSnapshot", &[Build, Publish, Sweep, Packer], Limit::Changes),
    // Volumes go with their instances; only what a sweep finds later has to be deleted.
    ec2("DeleteVolume", &[Sweep, Packer], Limit::Changes),
    ec2("DeregisterImage", &[Build, Publish, Sweep, Packer], Limit::Changes),
    ec2("DescribeAddresses", LISTS, Limit::Reads),
    ec2("DescribeCapacityReservations", &[Launch], Limit::Reads),
    ec2("DescribeImageAttribute", &[Publish, Sweep], Limit::Reads),
    ec2("DescribeImages", &[Build, Publish, Gate, Launch, Sweep, Packer], Limit::Reads),
    ec2("DescribeInstanceTypeOfferings", &[Build, Gate, Launch, Packer], Limit::Reads),
    ec2("DescribeInstanceTypes", &[Build, Gate, Launch], Limit::Reads),
    ec2("DescribeInstances", &[Build, Publish, Gate, Launch, Sweep, Packer], Limit::Reads),
    ec2("DescribeKeyPairs", LISTS, Limit::Reads),
    ec2("DescribePlacementGroups", LISTS, Limit::Reads),
    ec2("DescribeRouteTables", &[Build, Gate, Launch], Limit::Reads),
    ec2("DescribeSecurityGroups", &[Build, Publish, Gate, Launch, Sweep, Packer], Limit::Reads),
    ec2("DescribeSnapshots", LISTS, Limit::Reads),
    ec2("DescribeSubnets", &[Build, Gate, Launch, Packer], Limit::Reads),
    ec2("DescribeVolumes", &[Build, Publish, Gate, Launch, Sweep, Packer], Limit::Reads),
    ec2("DisableImageDeregistrationProtection", &[Publish, Sweep], Limit::Changes),
    ec2("EnableImageDeprecation", &[Publish, Packer], Limit::Changes),
    ec2("EnableImageDeregistrationProtection", &[Publish, Packer], Limit::Changes),
    // A console may show secrets.
    ec2("GetConsoleOutput", &[Build, Gate, Launch], Limit::Changes),
    ec2("ImportKeyPair", &[Build, Gate, Launch], Limit::Makes(&["key-pair"])),
    ec2("ModifyImageAttribute", &[Build, Publish, Packer], Limit::Changes),
    ec2("ReleaseAddress", &[Gate, Launch, Sweep], Limit::Changes),
    ec2("RevokeSecurityGroupIngress", &[Launch], Limit::Changes),
    ec2("RunInstances", &[Build, Gate, Launch, Packer], INSTANCE),
    ec2("StopInstances", &[Build, Packer], Limit::Changes),
    ec2("TerminateInstances", &[Build, Gate, Launch, Sweep, Packer], Limit::Changes),
    other("servicequotas", "GetServiceQuota", &[Build, Gate, Launch], Limit::Reads),
    other("ssm", "GetParameter", &[Build, Publish, Gate, Launch], Limit::Parameter),
    other("ssm", "PutParameter", &[Publish], Limit::Parameter),
    other("sts", "GetCallerIdentity", LISTS, Limit::Reads),
];

/// What Packer's Amazon plugin 1.8.1 (`amazon-ebs`) calls besides for the rendered template, by its source. The copy that
/// is encrypted and what belongs to a spot builder get their tags after they are made, or none.
#[rustfmt::skip]
pub const PACKER: [ApiAction; 9] = [
    ec2("CopyImage", &[Packer], Limit::Untagged(IMAGE)),
    ec2("CreateFleet", &[Packer], Limit::Untagged(&[])),
    ec2("CreateKeyPair", &[Packer], Limit::Makes(&["key-pair"])),
    ec2("CreateLaunchTemplate", &[Packer], Limit::Untagged(&["launch-template"])),
    ec2("DeleteLaunchTemplate", &[Packer], Limit::Untagged(&["launch-template"])),
    ec2("DescribeInstanceStatus", &[Packer], Limit::Reads),
    ec2("DescribeRegions", &[Packer], Limit::Reads),
    ec2("DescribeVpcs", &[Packer], Limit::Reads),
    other("iam", "GetInstanceProfile", &[Packer], Limit::Reads),
];

/// The uses that need the call of this name.
pub fn uses_of(call: &str) -> &'static [Use] {
    ACTIONS.iter().find(|action| action.call == call).map_or(&[], |action| action.uses)
}

/// Refuses every call that is not in the table.
#[derive(Debug)]
pub(super) struct InTable;

impl Intercept for InTable {
    fn name(&self) -> &'static str {
        "the table of actions"
    }

    fn read_before_serialization(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(asked) = config.load::<Metadata>() else { return Err("a call without a name".into()) };
        match is_in_table(asked.service(), asked.name()) {
            true => Ok(()),
            false => Err(format!("{} of {} is not in the table of actions", asked.name(), asked.service()).into()),
        }
    }
}

/// `service` as the SDK has it: `Service Quotas`.
fn is_in_table(service: &str, call: &str) -> bool {
    let service = service.to_ascii_lowercase().replace(' ', "");
    ACTIONS.iter().any(|action| action.service == service && action.call == call)
}
