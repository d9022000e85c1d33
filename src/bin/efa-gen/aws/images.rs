//! Owns images: finding, making, copying, sharing and marking them.

use std::time::Duration;

use aws_sdk_ec2::client::Waiters;
use aws_sdk_ec2::types as sdk;

use super::client::{Answer, Aws, all_pages, failed, ours, sdk_filters, sdk_tags, tagged, tags, text, waiting};
use super::model::{Image, Origin, Tags};

impl Aws {
    /// Images of these owners (account ids, `self`, `amazon`) that match every filter, deprecated ones too.
    pub async fn images(&self, owners: &[&str], filters: &[(&str, &str)]) -> Answer<Vec<Image>> {
        let call = self.ec2.describe_images().set_filters(sdk_filters(filters)).include_deprecated(true);
        let call = call.set_owners(Some(owners.iter().map(|owner| (*owner).to_owned()).collect()));
        Ok(all_pages!("DescribeImages", call)?.into_iter().map(image).collect())
    }

    /// The image with this id, if it is there and visible.
    pub async fn image(&self, id: &str) -> Answer<Option<Image>> {
        let answer = self.ec2.describe_images().image_ids(id).send().await;
        match answer.map_err(|error| failed("DescribeImages", &error)) {
            Ok(answer) => Ok(answer.images.unwrap_or_default().into_iter().map(image).next()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an image of an instance; the tags go on it and on its snapshots. One that runs is restarted by EC2, so that
    /// nothing writes to its disk meanwhile.
    pub async fn create_image(&self, instance: &str, name: &str, description: &str, tags: &Tags) -> Answer<String> {
        let call = self.ec2.create_image().instance_id(instance).name(name).description(description);
        let call = call
            .tag_specifications(tagged(sdk::ResourceType::Image, tags))
            .tag_specifications(tagged(sdk::ResourceType::Snapshot, tags));
        Ok(text(call.send().await.map_err(|error| failed("CreateImage", &error))?.image_id))
    }

    /// Waits until an image is available. A failed image is an error, with EC2's reason.
    pub async fn wait_for_image(&self, id: &str, patience: Duration) -> Answer<()> {
        let waited = self.ec2.wait_until_image_available().image_ids(id).wait(patience).await;
        match waited.err().map(|error| waiting("DescribeImages", id, &error)) {
            None => Ok(()),
            Some(error) => match self.image(id).await?.filter(|image| image.state == "failed") {
                Some(image) => Err(ours("CreateImage", "ImageFailed", format!("{id} has failed: {}", image.reason))),
                None => Err(error),
            },
        }
    }

    /// Copies an image into this region, with its tags; the same token never makes a second copy.
    pub async fn copy_image(&self, from: &Aws, image: &Image, token: &str, kms_key: Option<&str>) -> Answer<String> {
        let call = self.ec2.copy_image().source_image_id(&image.id).source_region(&from.region).name(&image.name);
        let call = call.client_token(token).set_kms_key_id(kms_key.map(str::to_owned));
        let call = call
            .set_encrypted(kms_key.map(|_| true))
            .tag_specifications(tagged(sdk::ResourceType::Image, &image.tags))
            .tag_specifications(tagged(sdk::ResourceType::Snapshot, &image.tags));
        Ok(text(call.send().await.map_err(|error| failed("CopyImage", &error))?.image_id))
    }

    /// Lets an account (twelve digits), an organisation or an organisational unit (their ARNs) launch the image.
    pub async fn share_image(&self, id: &str, with: &[String]) -> Answer<()> {
        let permission = |who: &String| {
            let permission = sdk::LaunchPermission::builder();
            match who {
                arn if arn.contains(":organization/") => permission.organization_arn(arn),
                arn if arn.contains(":ou/") => permission.organizational_unit_arn(arn),
                account => permission.user_id(account),
            }
            .build()
        };
        let add = sdk::LaunchPermissionModifications::builder().set_add(Some(with.iter().map(permission).collect()));
        let call = self.ec2.modify_image_attribute().image_id(id).launch_permission(add.build());
        call.send().await.map_err(|error| failed("ModifyImageAttribute", &error))?;
        Ok(())
    }

    /// Who may launch the image besides its owner: accounts, ARNs, or `all`.
    pub async fn shared_with(&self, id: &str) -> Answer<Vec<String>> {
        let call = self.ec2.describe_image_attribute().image_id(id);
        let answer = call.attribute(sdk::ImageAttributeName::LaunchPermission).send().await;
        let answer = answer.map_err(|error| failed("DescribeImageAttribute", &error))?;
        let who = |one: sdk::LaunchPermission| {
            let group = one.group.map(|group| group.as_str().to_owned());
            one.user_id.or(one.organization_arn).or(one.organizational_unit_arn).or(group)
        };
        Ok(answer.launch_permissions.unwrap_or_default().into_iter().filter_map(who).collect())
    }

    /// Makes every instance of the image answer IMDSv2 alone. It can't be taken back.
    pub async fn require_imds_v2(&self, id: &str) -> Answer<()> {
        let value = sdk::AttributeValue::builder().value("v2.0").build();
        let call = self.ec2.modify_image_attribute().image_id(id).imds_support(value);
        call.send().await.map_err(|error| failed("ModifyImageAttribute", &error))?;
        Ok(())
    }

    /// From this time (ISO 8601) on the image is hidden from those who do not own it.
    pub async fn deprecate_image(&self, id: &str, at: &str) -> Answer<()> {
        let wrong = |error| ours("EnableImageDeprecation", "InvalidTime", format!("{at}: {error}"));
        let at = aws_sdk_ec2::primitives::DateTime::from_str(at, aws_sdk_ec2::primitives::DateTimeFormat::DateTime)
            .map_err(wrong)?;
        let call = self.ec2.enable_image_deprecation().image_id(id).deprecate_at(at);
        call.send().await.map_err(|error| failed("EnableImageDeprecation", &error))?;
        Ok(())
    }

    pub async fn protect_image(&self, id: &str) -> Answer<()> {
        let call = self.ec2.enable_image_deregistration_protection().image_id(id);
        call.send().await.map_err(|error| failed("EnableImageDeregistrationProtection", &error))?;
        Ok(())
    }

    pub async fn unprotect_image(&self, id: &str) -> Answer<()> {
        let call = self.ec2.disable_image_deregistration_protection().image_id(id);
        call.send().await.map_err(|error| failed("DisableImageDeregistrationProtection", &error))?;
        Ok(())
    }

    pub async fn tag(&self, ids: &[String], tags: &Tags) -> Answer<()> {
        let call = self.ec2.create_tags().set_resources(Some(ids.to_vec())).set_tags(Some(sdk_tags(tags)));
        call.send().await.map_err(|error| failed("CreateTags", &error))?;
        Ok(())
    }
}

pub(crate) fn image(image: sdk::Image) -> Image {
    let blocks = image.block_device_mappings.unwrap_or_default();
    let root_device = text(image.root_device_name);
    let root = blocks.iter().find(|block| block.device_name.as_ref() == Some(&root_device));
    let reason = image.state_reason.and_then(|reason| reason.message);
    Image {
        root_gib: root.and_then(|root| root.ebs.as_ref()?.volume_size).unwrap_or(0),
        snapshots: blocks.iter().filter_map(|block| block.ebs.as_ref()?.snapshot_id.clone()).collect(),
        encrypted: blocks.iter().any(|block| block.ebs.as_ref().and_then(|ebs| ebs.encrypted) == Some(true)),
        id: text(image.image_id),
        name: text(image.name),
        owner: text(image.owner_id),
        state: image.state.map_or(String::new(), |state| state.as_str().to_owned()),
        reason: text(reason),
        created: text(image.creation_date),
        architecture: image.architecture.map_or(String::new(), |a| a.as_str().to_owned()),
        boot_mode: image.boot_mode.map_or(String::new(), |mode| mode.as_str().to_owned()),
        root_device,
        ena: image.ena_support.unwrap_or(false),
        imds_v2: image.imds_support.is_some(),
        origin: Origin {
            instance: image.source_instance_id,
            image: image.source_image_region.zip(image.source_image_id),
            ..Origin::default()
        },
        deprecated_at: text(image.deprecation_time),
        protection: text(image.deregistration_protection),
        tags: tags(image.tags),
    }
}
