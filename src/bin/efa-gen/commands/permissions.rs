//! Owns `efa-gen permissions`: an IAM policy on stdout, and on stderr what a policy can't say.

use efa_gen::error::{Class, Error, Result};

use super::list;
use crate::aws::action::Use;
use crate::cli::cloud::{PermissionsArgs, PolicyFormat};
use crate::io::terminal;
use crate::run::policy::{LONGEST, policy};

pub fn run(args: &PermissionsArgs) -> Result<()> {
    let uses: Vec<Use> = args.uses.iter().map(|of| Use::from(*of)).collect();
    let policy = policy(&uses, args.tagged);
    match args.format {
        PolicyFormat::Json => list::json(&policy)?,
        PolicyFormat::Hcl => terminal::data(policy.hcl().as_bytes())?,
    }
    let text = serde_json::to_string(&policy)
        .map_err(|error| Error::new(Class::Bug, "the policy can't be written as JSON").with_source(error))?;
    if text.len() > LONGEST {
        let length = text.len();
        terminal::message(&format!(
            "note: {length} characters; IAM takes {LONGEST} in a managed policy: print fewer uses at once"
        ));
    }
    notes(&uses).iter().for_each(|note| terminal::message(&format!("note: {note}")));
    Ok(())
}

/// What else each of these uses needs, or what of its policy is for the reader to narrow.
fn notes(uses: &[Use]) -> Vec<&'static str> {
    let any = |of: &[Use]| of.iter().any(|one| uses.contains(one));
    let all = [
        (
            any(&[Use::Publish, Use::Gate]) && !uses.contains(&Use::Build),
            "publish and gate are what a build needs besides: see also --for build",
        ),
        (
            any(&[Use::Packer]) && !uses.contains(&Use::Build),
            "this is for Packer itself; efa-gen build --driver packer asks for what --for build has, too",
        ),
        (
            any(&[Use::Packer]),
            "Packer tags its copies after it has made them: whoever has this policy may give any image or snapshot a run's tag",
        ),
        (
            any(&[Use::Build, Use::Publish, Use::Gate, Use::Launch, Use::Packer]),
            "the kms statements are for encryption with a key of your own: name that key in them, and this role in the key's policy",
        ),
        (
            any(&[Use::Publish]),
            "ec2:CopyImage takes any image as its source, for AWS can't limit that by a tag: its copy can be shared",
        ),
        (any(&[Use::Publish]), "ssm:PutParameter is for any parameter: name the one of --ssm-parameter"),
        (
            any(&[Use::Build, Use::Gate, Use::Launch, Use::Packer]) && !uses.contains(&Use::SessionManager),
            "--instance-profile needs iam:PassRole for the profile's role, as in --for session-manager",
        ),
        (
            any(&[Use::SessionManager]),
            "the role of the instance profile (--instance-profile) needs AWS's policy AmazonSSMManagedInstanceCore; it is the machines', not yours",
        ),
        (
            any(&[Use::SessionManager]),
            "iam:PassRole is for any role that EC2 may have: name the role of the instance profile",
        ),
        (true, "in China and GovCloud the ARNs begin with arn:aws-cn and arn:aws-us-gov"),
    ];
    all.into_iter().filter(|(holds, _)| *holds).map(|(_, note)| note).collect()
}
