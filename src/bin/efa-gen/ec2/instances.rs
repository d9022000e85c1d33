//! Owns instances: launching, watching and ending them. Knows nothing of images or of what runs on a machine.

use std::time::Duration;

use aws_sdk_ec2::client::Waiters;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use aws_sdk_ec2::types as sdk;
use base64::Engine as _;

use super::model::{Instance, Launch};
use super::{Answer, Aws, failed, ours, sdk_filters, tagged, tags, text, time, waiting};

impl Aws {
    /// Launches one builder.
    pub async fn launch(&self, launch: &Launch, dry_run: bool) -> Answer<Instance> {
        let answer = self.run_instances(launch).dry_run(dry_run).send().await;
        let answer = answer.map_err(|error| failed("RunInstances", &error))?;
        let none = || ours("RunInstances", "NoInstance", "the answer has no instance".to_owned());
        answer.instances.unwrap_or_default().into_iter().next().map(instance).ok_or_else(none)
    }

    fn run_instances(&self, launch: &Launch) -> RunInstancesFluentBuilder {
        let disk = sdk::EbsBlockDevice::builder()
            .volume_size(launch.root_gib)
            .volume_type(sdk::VolumeType::Gp3)
            .encrypted(launch.encrypted)
            .set_kms_key_id(launch.kms_key.clone())
            .delete_on_termination(true);
        let disk = sdk::BlockDeviceMapping::builder().device_name(&launch.root_device).ebs(disk.build());
        let tokens = if launch.imds_v2 { sdk::HttpTokensState::Required } else { sdk::HttpTokensState::Optional };
        let metadata =
            sdk::InstanceMetadataOptionsRequest::builder().http_tokens(tokens).http_put_response_hop_limit(1);
        let interface = sdk::InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .subnet_id(&launch.subnet)
            .set_groups((!launch.group.is_empty()).then(|| vec![launch.group.clone()]))
            .set_associate_public_ip_address(launch.public_address)
            .set_interface_type(launch.efa.then(|| "efa".to_owned()))
            .delete_on_termination(true);
        let market = sdk::InstanceMarketOptionsRequest::builder().market_type(sdk::MarketType::Spot).build();
        let mut call = self
            .ec2
            .run_instances()
            .image_id(&launch.image)
            .instance_type(sdk::InstanceType::from(launch.kind.as_str()))
            .min_count(1)
            .max_count(1)
            .client_token(&launch.token)
            .set_key_name((!launch.key.is_empty()).then(|| launch.key.clone()))
            .user_data(base64::prelude::BASE64_STANDARD.encode(&launch.user_data))
            .instance_initiated_shutdown_behavior(sdk::ShutdownBehavior::Terminate)
            .block_device_mappings(disk.build())
            .metadata_options(metadata.build())
            .network_interfaces(interface.build())
            .set_instance_market_options(launch.spot.then_some(market));
        for kind in [sdk::ResourceType::Instance, sdk::ResourceType::Volume, sdk::ResourceType::NetworkInterface] {
            call = call.tag_specifications(tagged(kind, &launch.tags));
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

pub(super) fn instance(instance: sdk::Instance) -> Instance {
    let state = instance.state.and_then(|state| state.name);
    Instance {
        id: text(instance.instance_id),
        state: state.map_or(String::new(), |name| name.as_str().to_owned()),
        reason: text(instance.state_reason.and_then(|reason| reason.message)),
        image: text(instance.image_id),
        kind: instance.instance_type.map_or(String::new(), |kind| kind.as_str().to_owned()),
        zone: text(instance.placement.and_then(|placement| placement.availability_zone)),
        public_address: instance.public_ip_address.filter(|address| !address.is_empty()),
        private_address: instance.private_ip_address.filter(|address| !address.is_empty()),
        launched: time(instance.launch_time),
        tags: tags(instance.tags),
    }
}
