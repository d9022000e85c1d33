//! Owns which AMI a build or an ad-hoc launch begins from when none is named. Knows nothing of what is done with it.

use efa_gen::catalog::distribution::Distribution;

use super::problem::Problem;
use crate::ec2::model::Image;
use crate::ec2::refusal::ApiError;
use crate::place::Look;

/// As the publisher's SSM parameter has it, else the newest that the filter finds.
pub async fn newest_base(
    look: &mut Look<'_>,
    distribution: &Distribution,
    architecture: &str,
) -> std::result::Result<std::result::Result<Image, Problem>, ApiError> {
    let ami = &distribution.ami;
    if let Some(parameter) = &ami.ssm_parameter {
        match look.aws.parameter(parameter).await? {
            Some(id) => {
                if let Some(image) = look.aws.image(&id).await? {
                    return Ok(Ok(image));
                }
            }
            None => {
                look.notes.push(format!("the SSM parameter {parameter} is gone; the newest AMI by name is taken"));
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
    let images = look.aws.images(&owners, &filters).await?;
    Ok(images.into_iter().max_by(|one, other| one.created.cmp(&other.created)).ok_or_else(|| {
        let what = format!(
            "{} has no AMI {} of owner {} any more",
            look.aws.region,
            ami.name,
            ami.owners.join(" or ")
        );
        Problem::new(what, "name one yourself (--source-ami, or --ami for a launch); AMIs of old distributions are kept by some accounts")
    }))
}
