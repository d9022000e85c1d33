//! Owns whatever a run may have left: listing it by its tags, in the order in which it is to be undone, and removing it.
//! Knows nothing of runs.

use super::images::image;
use super::instances::instance;
use super::model::{Kind, Tags, Thing};
use super::{Answer, Aws, failed, sdk_filters, tags, text, time};

impl Aws {
    /// Everything that matches these filters (`tag:...`, `tag-key`), in the order in which it is to be undone.
    pub async fn things(&self, filters_given: &[(&str, &str)]) -> Answer<Vec<Thing>> {
        let filters = || sdk_filters(filters_given);
        let mut things = Vec::new();
        let mut add = |kind, id: Option<String>, name: &str, state: &str, created: &str, tags: Tags| {
            things.push(Thing {
                region: self.region.clone(),
                kind,
                id: text(id),
                name: name.to_owned(),
                state: state.to_owned(),
                created: created.to_owned(),
                tags,
            });
        };
        let pages = self.ec2.describe_instances().set_filters(filters()).into_paginator().items().send();
        let found = pages.collect::<std::result::Result<Vec<_>, _>>().await;
        let found = found.map_err(|error| failed("DescribeInstances", &error))?;
        for found in found.into_iter().flat_map(|r| r.instances.unwrap_or_default()).map(instance) {
            if found.state != "terminated" {
                add(Kind::Instance, Some(found.id), &found.kind, &found.state, &found.launched, found.tags);
            }
        }
        let call = self.ec2.describe_images().owners("self").include_deprecated(true).set_filters(filters());
        let found = call.into_paginator().items().send().collect::<std::result::Result<Vec<_>, _>>().await;
        for found in found.map_err(|error| failed("DescribeImages", &error))?.into_iter().map(image) {
            add(Kind::Image, Some(found.id), &found.name, &found.state, &found.created, found.tags);
        }
        let call = self.ec2.describe_snapshots().owner_ids("self").set_filters(filters());
        let found = call.into_paginator().items().send().collect::<std::result::Result<Vec<_>, _>>().await;
        for found in found.map_err(|error| failed("DescribeSnapshots", &error))? {
            let state = found.state.as_ref().map_or("", |state| state.as_str());
            add(Kind::Snapshot, found.snapshot_id, "", state, &time(found.start_time), tags(found.tags));
        }
        let call = self.ec2.describe_volumes().set_filters(filters());
        let found = call.into_paginator().items().send().collect::<std::result::Result<Vec<_>, _>>().await;
        for found in found.map_err(|error| failed("DescribeVolumes", &error))? {
            let state = found.state.as_ref().map_or("", |state| state.as_str());
            add(Kind::Volume, found.volume_id, "", state, &time(found.create_time), tags(found.tags));
        }
        for found in self.addresses(filters_given).await? {
            add(Kind::Address, Some(found.id), &found.name, "", "", found.tags);
        }
        let found = self.ec2.describe_key_pairs().set_filters(filters()).send().await;
        for found in found.map_err(|error| failed("DescribeKeyPairs", &error))?.key_pairs.unwrap_or_default() {
            add(
                Kind::KeyPair,
                found.key_pair_id,
                &text(found.key_name),
                "",
                &time(found.create_time),
                tags(found.tags),
            );
        }
        let call = self.ec2.describe_security_groups().set_filters(filters());
        let found = call.into_paginator().items().send().collect::<std::result::Result<Vec<_>, _>>().await;
        for found in found.map_err(|error| failed("DescribeSecurityGroups", &error))? {
            add(Kind::SecurityGroup, found.group_id, &text(found.group_name), "", "", tags(found.tags));
        }
        let found = self.ec2.describe_placement_groups().set_filters(filters()).send().await;
        for found in
            found.map_err(|error| failed("DescribePlacementGroups", &error))?.placement_groups.unwrap_or_default()
        {
            let state = found.state.as_ref().map_or("", |state| state.as_str());
            add(Kind::PlacementGroup, found.group_id, &text(found.group_name), state, "", tags(found.tags));
        }
        things.sort_by_key(|thing| thing.kind);
        Ok(things)
    }

    /// Elastic addresses.
    pub async fn addresses(&self, filters: &[(&str, &str)]) -> Answer<Vec<Thing>> {
        let found = self.ec2.describe_addresses().set_filters(sdk_filters(filters)).send().await;
        let found = found.map_err(|error| failed("DescribeAddresses", &error))?.addresses.unwrap_or_default();
        let thing = |found: aws_sdk_ec2::types::Address| Thing {
            region: self.region.clone(),
            kind: Kind::Address,
            id: text(found.allocation_id),
            name: text(found.public_ip),
            state: String::new(),
            created: String::new(),
            tags: tags(found.tags),
        };
        Ok(found.into_iter().map(thing).collect())
    }

    /// Removes one thing; says whether it was there, for that it is gone already is no error. Instances are not waited
    /// for: see `terminate`.
    pub async fn remove(&self, thing: &Thing) -> Answer<bool> {
        let id = &thing.id;
        let ec2 = &self.ec2;
        let done = match thing.kind {
            Kind::Instance => ec2
                .terminate_instances()
                .instance_ids(id)
                .send()
                .await
                .map(drop)
                .map_err(|e| failed("TerminateInstances", &e)),
            Kind::Image => {
                ec2.deregister_image().image_id(id).send().await.map(drop).map_err(|e| failed("DeregisterImage", &e))
            }
            Kind::Snapshot => {
                ec2.delete_snapshot().snapshot_id(id).send().await.map(drop).map_err(|e| failed("DeleteSnapshot", &e))
            }
            Kind::Volume => {
                ec2.delete_volume().volume_id(id).send().await.map(drop).map_err(|e| failed("DeleteVolume", &e))
            }
            Kind::Address => {
                ec2.release_address().allocation_id(id).send().await.map(drop).map_err(|e| failed("ReleaseAddress", &e))
            }
            Kind::KeyPair => {
                ec2.delete_key_pair().key_pair_id(id).send().await.map(drop).map_err(|e| failed("DeleteKeyPair", &e))
            }
            Kind::SecurityGroup => ec2
                .delete_security_group()
                .group_id(id)
                .send()
                .await
                .map(drop)
                .map_err(|e| failed("DeleteSecurityGroup", &e)),
            Kind::PlacementGroup => {
                let call = ec2.delete_placement_group().group_name(&thing.name);
                call.send().await.map(drop).map_err(|e| failed("DeletePlacementGroup", &e))
            }
        };
        match done {
            Err(error) if error.is_not_found() => Ok(false),
            other => other.map(|()| true),
        }
    }
}
