//! Owns instances: launching, watching and ending them. Knows nothing of images or of what runs on a machine.

use std::time::Duration;

use aws_sdk_ec2::client::Waiters;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use aws_sdk_ec2::types as sdk;
use base64::Engine as _;

use efa_gen::cluster::nic::Nic;

use super::model::{Instance, Launch};
use super::{Answer, Aws, failed, ours, sdk_filters, tagged, tags, text, time, waiting};

impl Aws {
    /// Launches as many as are asked for, or none.
    pub async fn launch(&self, launch: &Launch, dry_run: bool) -> Answer<Vec<Instance>> {
        let answer = self.run_instances(launch).dry_run(dry_run).send().await;
        let answer = answer.map_err(|error| failed("RunInstances", &error))?;
        let launched: Vec<Instance> = answer.instances.unwrap_or_default().into_iter().map(instance).collect();
        match launched.is_empty() {
            true => Err(ours("RunInstances", "NoInstance", "the answer has no instance".to_owned())),
            false => Ok(launched),
        }
    }

    fn run_instances(&self, launch: &Launch) -> RunInstancesFluentBuilder {
        let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        let mut call = self
            .ec2
            .run_instances()
            .image_id(&launch.image)
            .instance_type(sdk::InstanceType::from(launch.kind.as_str()))
            .min_count(number(launch.count.0))
            .max_count(number(launch.count.1))
            .client_token(&launch.token)
            .set_key_name((!launch.key.is_empty()).then(|| launch.key.clone()))
            .user_data(base64::prelude::BASE64_STANDARD.encode(&launch.user_data))
            .instance_initiated_shutdown_behavior(sdk::ShutdownBehavior::Terminate)
            .block_device_mappings(disk(launch))
            .metadata_options(metadata(launch))
            .set_network_interfaces(Some(launch.nics.iter().map(|nic| interface(launch, *nic)).collect()))
            .set_instance_market_options(market(launch));
        let made = [sdk::ResourceType::Instance, sdk::ResourceType::Volume, sdk::ResourceType::NetworkInterface];
        // A request to the spot market is a thing of its own (AWS EC2 API Reference, RunInstances, TagSpecification).
        let request = launch.spot.then_some(sdk::ResourceType::SpotInstancesRequest);
        for kind in made.into_iter().chain(request) {
            call = call.tag_specifications(tagged(kind, &launch.tags));
        }
        if let Some(group) = &launch.placement_group {
            call = call.placement(sdk::Placement::builder().group_name(group).build());
        }
        if let Some(reservation) = &launch.reservation {
            let target = sdk::CapacityReservationTarget::builder().capacity_reservation_id(&reservation.id).build();
            let target = sdk::CapacityReservationSpecification::builder().capacity_reservation_target(target);
            call = call.capacity_reservation_specification(target.build());
        }
        match &launch.profile {
            Some(name) => call.iam_instance_profile(sdk::IamInstanceProfileSpecification::builder().name(name).build()),
            None => call,
        }
    }

    pub async fn instances(&self, filters: &[(&str, &str)]) -> Answer<Vec<Instance>> {
        let pages = self.ec2.describe_instances().set_filters(sdk_filters(filters)).into_paginator().items().send();
        let found = pages.collect::<std::result::Result<Vec<_>, _>>().await;
        let found = found.map_err(|error| failed("DescribeInstances", &error))?;
        let instances = found.into_iter().flat_map(|reservation| reservation.instances.unwrap_or_default());
        Ok(instances.map(instance).collect())
    }

    /// The instance with this id; `None` while EC2 does not know it yet, or not any more.
    pub async fn instance(&self, id: &str) -> Answer<Option<Instance>> {
        // A filter instead of the id: an id that is too new would be an error.
        Ok(self.instances(&[("instance-id", id)]).await?.into_iter().next())
    }

    /// What the serial console shows now.
    pub async fn console(&self, id: &str) -> Answer<String> {
        let answer = self.ec2.get_console_output().instance_id(id).latest(true).send().await;
        let output = answer.map_err(|error| failed("GetConsoleOutput", &error))?.output.unwrap_or_default();
        let bytes = base64::prelude::BASE64_STANDARD.decode(output.split_whitespace().collect::<String>());
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    }

    /// Stops an instance and waits for it.
    pub async fn stop(&self, id: &str, patience: Duration) -> Answer<()> {
        let answer = self.ec2.stop_instances().instance_ids(id).send().await;
        answer.map_err(|error| failed("StopInstances", &error))?;
        let waited = self.ec2.wait_until_instance_stopped().instance_ids(id).wait(patience).await;
        waited.map(drop).map_err(|error| waiting("DescribeInstances", id, &error))
    }

    /// Terminates instances and waits until they are gone.
    pub async fn terminate(&self, ids: &[String], patience: Duration) -> Answer<()> {
        let answer = self.ec2.terminate_instances().set_instance_ids(Some(ids.to_vec())).send().await;
        answer.map_err(|error| failed("TerminateInstances", &error))?;
        let waited =
            self.ec2.wait_until_instance_terminated().set_instance_ids(Some(ids.to_vec())).wait(patience).await;
        waited.map(drop).map_err(|error| waiting("DescribeInstances", &ids.join(" "), &error))
    }
}

fn disk(launch: &Launch) -> sdk::BlockDeviceMapping {
    let disk = sdk::EbsBlockDevice::builder()
        .volume_size(launch.root_gib)
        .volume_type(sdk::VolumeType::Gp3)
        .set_encrypted(launch.encrypted)
        .set_kms_key_id(launch.kms_key.clone())
        .delete_on_termination(true);
    sdk::BlockDeviceMapping::builder().device_name(&launch.root_device).ebs(disk.build()).build()
}

fn metadata(launch: &Launch) -> sdk::InstanceMetadataOptionsRequest {
    let tokens = if launch.imds_v2 { sdk::HttpTokensState::Required } else { sdk::HttpTokensState::Optional };
    sdk::InstanceMetadataOptionsRequest::builder().http_tokens(tokens).http_put_response_hop_limit(1).build()
}

/// The group goes on each interface: with interfaces of its own, a launch has no group (AWS EC2 API Reference, RunInstances).
fn interface(launch: &Launch, nic: Nic) -> sdk::InstanceNetworkInterfaceSpecification {
    // EC2 gives no public address to a machine of several interfaces.
    let public = launch.public_address.filter(|_| launch.nics.len() == 1);
    let number = |index: u32| i32::try_from(index).unwrap_or(i32::MAX);
    sdk::InstanceNetworkInterfaceSpecification::builder()
        .network_card_index(number(nic.card))
        .device_index(number(nic.device))
        .subnet_id(&launch.subnet)
        .set_groups((!launch.group.is_empty()).then(|| vec![launch.group.clone()]))
        .set_associate_public_ip_address(public)
        .interface_type(nic.kind.name())
        .delete_on_termination(true)
        .build()
}

fn market(launch: &Launch) -> Option<sdk::InstanceMarketOptionsRequest> {
    let block = launch.reservation.as_ref().is_some_and(|reservation| reservation.block);
    let market = match (launch.spot, block) {
        (_, true) => sdk::MarketType::CapacityBlock,
        (true, _) => sdk::MarketType::Spot,
        _ => return None,
    };
    Some(sdk::InstanceMarketOptionsRequest::builder().market_type(market).build())
}

pub(super) fn instance(instance: sdk::Instance) -> Instance {
    let state = instance.state.and_then(|state| state.name);
    let interfaces = instance.network_interfaces.unwrap_or_default();
    let primary = interfaces.into_iter().find(|interface| {
        let at = interface.attachment.as_ref();
        at.is_some_and(|at| at.device_index == Some(0) && at.network_card_index.unwrap_or(0) == 0)
    });
    Instance {
        id: text(instance.instance_id),
        state: state.map_or(String::new(), |name| name.as_str().to_owned()),
        reason: text(instance.state_reason.and_then(|reason| reason.message)),
        image: text(instance.image_id),
        kind: instance.instance_type.map_or(String::new(), |kind| kind.as_str().to_owned()),
        zone: text(instance.placement.and_then(|placement| placement.availability_zone)),
        public_address: instance.public_ip_address.filter(|address| !address.is_empty()),
        private_address: instance.private_ip_address.filter(|address| !address.is_empty()),
        index: instance.ami_launch_index.unwrap_or(0),
        interface: primary.and_then(|interface| interface.network_interface_id),
        launched: time(instance.launch_time),
        tags: tags(instance.tags),
    }
}
