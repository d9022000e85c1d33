//! Owns which AMI a build or a launch begins from.

use efa_gen::catalog::distribution::Distribution;

use super::context::PreflightContext;
use super::problem::Problem;
use crate::aws::model::Image;

/// The one that has this id.
pub async fn named(context: &PreflightContext<'_>, id: &str) -> Result<Image, Problem> {
    context.aws.image(id).await?.ok_or_else(|| {
        let what = format!("the region {} has no AMI {id} that this account may see", context.aws.region);
        Problem::new(what, "AMI ids belong to one region; a private one must be shared with the account")
    })
}

/// As the publisher's SSM parameter has it, else the newest that the filter finds.
pub async fn newest_base(
    context: &mut PreflightContext<'_>,
    distribution: &Distribution,
    architecture: &str,
) -> Result<Image, Problem> {
    let ami = &distribution.ami;
    if let Some(parameter) = &ami.ssm_parameter {
        match context.aws.parameter(parameter).await? {
            Some(id) => {
                if let Some(image) = context.aws.image(&id).await? {
                    return Ok(image);
                }
            }
            None => {
                context.notes.push(format!("the SSM parameter {parameter} is gone; the newest AMI by name is taken"));
            }
        }
    }
    let owners: Vec<&str> = ami.owners.iter().map(String::as_str).collect();
    let filters = [
        ("name", ami.name.as_str()),
        ("architecture", architecture),
        ("root-device-type", "ebs"),
        ("state", "available"),
        ("virtualization-type", "hvm"),
    ];
    let images = context.aws.images(&owners, &filters).await?;
    images.into_iter().max_by(|one, other| one.created.cmp(&other.created)).ok_or_else(|| {
        let what = format!(
            "{} has no AMI {} of owner {} any more",
            context.aws.region,
            ami.name,
            ami.owners.join(" or ")
        );
        Problem::new(what, "name one yourself (--source-ami, or --ami for a launch); AMIs of old distributions are kept by some accounts")
    })
}
