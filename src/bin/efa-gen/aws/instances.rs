//! Owns instances: launching, watching and ending them.

use std::time::Duration;

use aws_sdk_ec2::client::Waiters;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use aws_sdk_ec2::types as sdk;
use base64::Engine as _;

use efa_gen::catalog::nic_layout::Nic;
use efa_gen::text::{ANSWER, size};

use super::client::{Answer, Aws, all_pages, failed, ours, sdk_filters, tagged, tags, text, time, waiting};
use super::error::ApiError;
use super::model::{Instance, LaunchRun, LaunchSpec, Origin};

impl Aws {
    /// Launches as many as are asked for, or none.
    pub async fn launch(&self, spec: &LaunchSpec, launch: &LaunchRun, dry_run: bool) -> Answer<Vec<Instance>> {
        let answer = self.run_instances(spec, launch).dry_run(dry_run).send().await;
        let answer = answer.map_err(|error| failed("RunInstances", &error))?;
        let launched: Vec<Instance> = answer.instances.unwrap_or_default().into_iter().map(instance).collect();
        match launched.is_empty() {
            true => Err(ours("RunInstances", "NoInstance", "the answer has no instance".to_owned())),
            false => Ok(launched),
        }
    }

    fn run_instances(&self, spec: &LaunchSpec, launch: &LaunchRun) -> RunInstancesFluentBuilder {
        let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        let mut call = self
            .ec2
            .run_instances()
            .image_id(&spec.image)
            .instance_type(sdk::InstanceType::from(spec.instance_type.as_str()))
            .min_count(number(launch.count.0))
            .max_count(number(launch.count.1))
            .client_token(&launch.token)
            .set_key_name(launch.key.clone())
            .user_data(base64::prelude::BASE64_STANDARD.encode(&launch.user_data))
            .instance_initiated_shutdown_behavior(sdk::ShutdownBehavior::Terminate)
            .block_device_mappings(disk(spec))
            .metadata_options(metadata(spec))
            .set_network_interfaces(Some(spec.nics.iter().map(|nic| interface(spec, launch, *nic)).collect()))
            .set_instance_market_options(market(spec));
        let made = [sdk::ResourceType::Instance, sdk::ResourceType::Volume, sdk::ResourceType::NetworkInterface];
        // A request to the spot market is a thing of its own (AWS EC2 API Reference, RunInstances, TagSpecification).
        let request = spec.spot.then_some(sdk::ResourceType::SpotInstancesRequest);
        for kind in made.into_iter().chain(request) {
            call = call.tag_specifications(tagged(kind, &launch.tags));
        }
        if let Some(group) = &launch.placement_group {
            call = call.placement(sdk::Placement::builder().group_name(group).build());
        }
        if let Some(reservation) = &spec.reservation {
            let target = sdk::CapacityReservationTarget::builder().capacity_reservation_id(&reservation.id).build();
            let target = sdk::CapacityReservationSpecification::builder().capacity_reservation_target(target);
            call = call.capacity_reservation_specification(target.build());
        }
        match &spec.profile {
            Some(name) => call.iam_instance_profile(sdk::IamInstanceProfileSpecification::builder().name(name).build()),
            None => call,
        }
    }

    pub async fn instances(&self, filters: &[(&str, &str)]) -> Answer<Vec<Instance>> {
        let found = all_pages!("DescribeInstances", self.ec2.describe_instances().set_filters(sdk_filters(filters)))?;
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
        let bytes = bytes.unwrap_or_default();
        if bytes.len() > ANSWER {
            let message = format!("the console of {id} is longer than {}", size(ANSWER as u64));
            return Err(ApiError { call: "GetConsoleOutput", code: "TooLong".into(), message, request_id: None });
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
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

fn disk(spec: &LaunchSpec) -> sdk::BlockDeviceMapping {
    let disk = sdk::EbsBlockDevice::builder()
        .volume_size(spec.root_gib)
        .volume_type(sdk::VolumeType::Gp3)
        .set_encrypted(spec.encrypted)
        .set_kms_key_id(spec.kms_key.clone())
        .delete_on_termination(true);
    sdk::BlockDeviceMapping::builder().device_name(&spec.root_device).ebs(disk.build()).build()
}

fn metadata(spec: &LaunchSpec) -> sdk::InstanceMetadataOptionsRequest {
    let tokens = if spec.imds_v2 { sdk::HttpTokensState::Required } else { sdk::HttpTokensState::Optional };
    sdk::InstanceMetadataOptionsRequest::builder().http_tokens(tokens).http_put_response_hop_limit(1).build()
}

/// The group goes on each interface: with interfaces of its own, a launch has no group (AWS EC2 API Reference, RunInstances).
fn interface(spec: &LaunchSpec, launch: &LaunchRun, nic: Nic) -> sdk::InstanceNetworkInterfaceSpecification {
    // EC2 gives no public address to a machine of several interfaces.
    let public = spec.public_address.filter(|_| spec.nics.len() == 1);
    let number = |index: u32| i32::try_from(index).unwrap_or(i32::MAX);
    sdk::InstanceNetworkInterfaceSpecification::builder()
        .network_card_index(number(nic.card))
        .device_index(number(nic.device))
        .subnet_id(&spec.subnet)
        .set_groups(launch.group.clone().map(|group| vec![group]))
        .set_associate_public_ip_address(public)
        .interface_type(nic.kind.name())
        .delete_on_termination(true)
        .build()
}

fn market(spec: &LaunchSpec) -> Option<sdk::InstanceMarketOptionsRequest> {
    let block = spec.reservation.as_ref().is_some_and(|reservation| reservation.block);
    let market = match (spec.spot, block) {
        (_, true) => sdk::MarketType::CapacityBlock,
        (true, _) => sdk::MarketType::Spot,
        _ => return None,
    };
    Some(sdk::InstanceMarketOptionsRequest::builder().market_type(market).build())
}

pub(crate) fn instance(instance: sdk::Instance) -> Instance {
    let state = instance.state.and_then(|state| state.name);
    let groups = instance.security_groups.unwrap_or_default();
    let interfaces = instance.network_interfaces.unwrap_or_default();
    let listed = interfaces.iter().flat_map(|interface| interface.private_ip_addresses());
    let listed = listed.filter_map(|address| address.private_ip_address.clone());
    let mut private_addresses: Vec<String> = instance.private_ip_address.iter().cloned().chain(listed).collect();
    private_addresses.retain(|address| !address.is_empty());
    private_addresses.sort();
    private_addresses.dedup();
    let primary = interfaces.into_iter().find(|interface| {
        let at = interface.attachment.as_ref();
        at.is_some_and(|at| at.device_index == Some(0) && at.network_card_index.unwrap_or(0) == 0)
    });
    Instance {
        id: text(instance.instance_id),
        state: state.map_or(String::new(), |name| name.as_str().to_owned()),
        reason: text(instance.state_reason.and_then(|reason| reason.message)),
        image: text(instance.image_id),
        instance_type: instance.instance_type.map_or(String::new(), |kind| kind.as_str().to_owned()),
        zone: text(instance.placement.and_then(|placement| placement.availability_zone)),
        public_address: instance.public_ip_address.filter(|address| !address.is_empty()),
        private_addresses,
        private_address: instance.private_ip_address.filter(|address| !address.is_empty()),
        index: instance.ami_launch_index.unwrap_or(0),
        interface: primary.and_then(|interface| interface.network_interface_id),
        launched: time(instance.launch_time),
        origin: Origin {
            token: text(instance.client_token),
            key: text(instance.key_name),
            groups: groups.into_iter().filter_map(|group| group.group_name).collect(),
            ..Origin::default()
        },
        tags: tags(instance.tags),
    }
}
