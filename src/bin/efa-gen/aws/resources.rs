//! Owns whatever a run may have left: listing it by its tags, in the order in which it is to be undone, and removing
//! it.

use super::client::{Answer, Aws, all_pages, failed, sdk_filters, tags, text, time};
use super::images::image;
use super::instances::instance;
use super::model::{Image, Instance, Origin, Resource, ResourceKind};
use aws_sdk_ec2::types::Tag;

impl Aws {
    /// Everything that matches these filters (`tag:...`, `tag-key`), in the order in which it is to be undone.
    pub async fn resources(&self, filters_given: &[(&str, &str)]) -> Answer<Vec<Resource>> {
        let filters = || sdk_filters(filters_given);
        let region = self.region.as_str();
        let mut resources = Vec::new();
        let found = all_pages!("DescribeInstances", self.ec2.describe_instances().set_filters(filters()))?;
        let instances = found.into_iter().flat_map(|r| r.instances.unwrap_or_default()).map(instance);
        resources.extend(
            instances.filter(|found| found.state != "terminated").map(|found| instance_resource(&found, region)),
        );
        let call = self.ec2.describe_images().owners("self").include_deprecated(true).set_filters(filters());
        let found = all_pages!("DescribeImages", call)?.into_iter().map(image);
        resources.extend(found.map(|found| image_resource(&found, region)));
        let call = self.ec2.describe_snapshots().owner_ids("self").set_filters(filters());
        resources.extend(all_pages!("DescribeSnapshots", call)?.into_iter().map(|found| snapshot(found, region)));
        let call = self.ec2.describe_volumes().set_filters(filters());
        resources.extend(all_pages!("DescribeVolumes", call)?.into_iter().map(|found| Resource {
            state: found.state.as_ref().map_or("", |state| state.as_str()).to_owned(),
            created: time(found.create_time),
            origin: Origin {
                instance: found.attachments.unwrap_or_default().into_iter().find_map(|at| at.instance_id),
                ..Origin::default()
            },
            ..listed(region, ResourceKind::Volume, found.volume_id, None, found.tags)
        }));
        resources.extend(self.addresses(filters_given).await?);
        let found = self.ec2.describe_key_pairs().set_filters(filters()).send().await;
        let found = found.map_err(|error| failed("DescribeKeyPairs", &error))?.key_pairs.unwrap_or_default();
        resources.extend(found.into_iter().map(|found| Resource {
            created: time(found.create_time),
            ..listed(region, ResourceKind::KeyPair, found.key_pair_id, found.key_name, found.tags)
        }));
        let call = self.ec2.describe_security_groups().set_filters(filters());
        resources.extend(
            all_pages!("DescribeSecurityGroups", call)?
                .into_iter()
                .map(|found| listed(region, ResourceKind::SecurityGroup, found.group_id, found.group_name, found.tags)),
        );
        let found = self.ec2.describe_placement_groups().set_filters(filters()).send().await;
        let found =
            found.map_err(|error| failed("DescribePlacementGroups", &error))?.placement_groups.unwrap_or_default();
        resources.extend(found.into_iter().map(|found| Resource {
            state: found.state.as_ref().map_or("", |state| state.as_str()).to_owned(),
            ..listed(region, ResourceKind::PlacementGroup, found.group_id, found.group_name, found.tags)
        }));
        resources.sort_by_key(|resource| resource.kind);
        Ok(resources)
    }

    /// Those of these snapshots that are there.
    pub async fn snapshots(&self, ids: &[String]) -> Answer<Vec<Resource>> {
        let mut all = Vec::new();
        for id in ids {
            let call = self.ec2.describe_snapshots().set_filters(sdk_filters(&[("snapshot-id", id)]));
            all.extend(all_pages!("DescribeSnapshots", call)?.into_iter().map(|found| snapshot(found, &self.region)));
        }
        Ok(all)
    }

    /// Elastic addresses.
    pub async fn addresses(&self, filters: &[(&str, &str)]) -> Answer<Vec<Resource>> {
        let found = self.ec2.describe_addresses().set_filters(sdk_filters(filters)).send().await;
        let found = found.map_err(|error| failed("DescribeAddresses", &error))?.addresses.unwrap_or_default();
        let resource = |found: aws_sdk_ec2::types::Address| Resource {
            origin: Origin { instance: found.instance_id.filter(|id| !id.is_empty()), ..Origin::default() },
            ..listed(&self.region, ResourceKind::Address, found.allocation_id, found.public_ip, found.tags)
        };
        Ok(found.into_iter().map(resource).collect())
    }

    /// Removes one thing; says whether it was there, for that it is gone already is no error. Instances are not waited
    /// for: see `terminate`.
    pub async fn remove(&self, resource: &Resource) -> Answer<bool> {
        let id = &resource.id;
        let ec2 = &self.ec2;
        let done = match resource.kind {
            ResourceKind::Instance => ec2
                .terminate_instances()
                .instance_ids(id)
                .send()
                .await
                .map(drop)
                .map_err(|e| failed("TerminateInstances", &e)),
            ResourceKind::Image => {
                ec2.deregister_image().image_id(id).send().await.map(drop).map_err(|e| failed("DeregisterImage", &e))
            }
            ResourceKind::Snapshot => {
                ec2.delete_snapshot().snapshot_id(id).send().await.map(drop).map_err(|e| failed("DeleteSnapshot", &e))
            }
            ResourceKind::Volume => {
                ec2.delete_volume().volume_id(id).send().await.map(drop).map_err(|e| failed("DeleteVolume", &e))
            }
            ResourceKind::Address => {
                ec2.release_address().allocation_id(id).send().await.map(drop).map_err(|e| failed("ReleaseAddress", &e))
            }
            ResourceKind::KeyPair => {
                ec2.delete_key_pair().key_pair_id(id).send().await.map(drop).map_err(|e| failed("DeleteKeyPair", &e))
            }
            ResourceKind::SecurityGroup => ec2
                .delete_security_group()
                .group_id(id)
                .send()
                .await
                .map(drop)
                .map_err(|e| failed("DeleteSecurityGroup", &e)),
            ResourceKind::PlacementGroup => {
                let call = ec2.delete_placement_group().group_name(&resource.name);
                call.send().await.map(drop).map_err(|e| failed("DeletePlacementGroup", &e))
            }
        };
        match done {
            Err(error) if error.is_not_found() => Ok(false),
            other => other.map(|()| true),
        }
    }
}

/// A resource with the fields that every kind has.
fn listed(
    region: &str,
    kind: ResourceKind,
    id: Option<String>,
    name: Option<String>,
    given: Option<Vec<Tag>>,
) -> Resource {
    Resource {
        region: region.to_owned(),
        kind,
        id: text(id),
        name: text(name),
        state: String::new(),
        created: String::new(),
        origin: Origin::default(),
        tags: tags(given),
    }
}

/// An instance as a resource of its region. It has no name but its tag.
pub fn instance_resource(instance: &Instance, region: &str) -> Resource {
    Resource {
        region: region.to_owned(),
        kind: ResourceKind::Instance,
        id: instance.id.clone(),
        name: String::new(),
        state: instance.state.clone(),
        created: instance.launched.clone(),
        origin: instance.origin.clone(),
        tags: instance.tags.clone(),
    }
}

/// An image as a resource of its region.
pub fn image_resource(image: &Image, region: &str) -> Resource {
    Resource {
        kind: ResourceKind::Image,
        name: image.name.clone(),
        state: image.state.clone(),
        origin: image.origin.clone(),
        ..snapshot_resource(image, &image.id, region)
    }
}

/// A snapshot as EC2 tells of it.
fn snapshot(found: aws_sdk_ec2::types::Snapshot, region: &str) -> Resource {
    Resource {
        state: found.state.as_ref().map_or("", |state| state.as_str()).to_owned(),
        created: time(found.start_time),
        origin: Origin { description: text(found.description), ..Origin::default() },
        ..listed(region, ResourceKind::Snapshot, found.snapshot_id, None, found.tags)
    }
}

/// A snapshot as its image has it.
pub fn snapshot_resource(image: &Image, id: &str, region: &str) -> Resource {
    Resource {
        region: region.to_owned(),
        kind: ResourceKind::Snapshot,
        id: id.to_owned(),
        name: String::new(),
        state: String::new(),
        created: image.created.clone(),
        origin: Origin::default(),
        tags: image.tags.clone(),
    }
}
