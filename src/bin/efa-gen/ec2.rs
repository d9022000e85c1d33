//! Owns every word with AWS: the only file that names its SDK. Calls go out and answers come back in the types of
//! `model`, refusals as `ApiError`. Knows nothing of builds. Longer than other files, because the SDK ends here.

pub mod model;
pub mod refusal;

use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_ec2::client::Waiters;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use aws_sdk_ec2::operation::run_instances::RunInstancesError;
use aws_sdk_ec2::types as sdk;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority};
use base64::Engine as _;

use model::{Identity, Image, Instance, Kind, Launch, Subnet, Tags, Thing, TypeInfo};
use refusal::ApiError;

type Answer<T> = std::result::Result<T, ApiError>;

/// The services of one region.
#[derive(Debug, Clone)]
pub struct Aws {
    config: SdkConfig,
    ec2: aws_sdk_ec2::Client,
    ssm: aws_sdk_ssm::Client,
    /// The region that it speaks with.
    pub region: String,
}

/// Enough for AWS's own throttling to pass; the waits between attempts grow to twenty seconds.
const ATTEMPTS: u32 = 8;

impl Aws {
    /// The user's own credentials, profile and proxy. Without a region the profile's or the environment's is taken.
    ///
    /// Errors: no region anywhere.
    pub async fn connect(region: Option<&str>, profile: Option<&str>) -> Answer<Self> {
        let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let http = aws_smithy_http_client::Builder::new().tls_provider(ring).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http.clone())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(10))
                    .operation_attempt_timeout(Duration::from_secs(60))
                    .build(),
            );
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(profile) = profile {
            // A profile that is named wins over the environment, as with the AWS CLI.
            let provider = ProviderConfig::without_region().with_http_client(http);
            let provider = provider.with_region(region.map(|region| Region::new(region.to_owned())));
            let credentials =
                ProfileFileCredentialsProvider::builder().configure(&provider).profile_name(profile).build();
            loader = loader.profile_name(profile).credentials_provider(credentials);
        }
        let config = loader.load().await;
        match config.region() {
            Some(region) => Ok(Aws::of(&config, region.to_string())),
            None => Err(ours("Connect", "NoRegion", "no region is set".to_owned())),
        }
    }

    /// The same credentials in another region.
    pub fn in_region(&self, region: &str) -> Self {
        Aws::of(&self.config, region.to_owned())
    }

    fn of(config: &SdkConfig, region: String) -> Self {
        let config = config.to_builder().region(Region::new(region.clone())).build();
        let ec2 = aws_sdk_ec2::config::Builder::from(&config).retry_classifier(NoRoom).build();
        Aws { ec2: aws_sdk_ec2::Client::from_conf(ec2), ssm: aws_sdk_ssm::Client::new(&config), config, region }
    }

    pub async fn identity(&self) -> Answer<Identity> {
        let answer = aws_sdk_sts::Client::new(&self.config)
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| failed("GetCallerIdentity", &error))?;
        Ok(Identity { account: text(answer.account), arn: text(answer.arn) })
    }

    /// A quota's value; the code is Service Quotas' own (`L-1216C47A`).
    pub async fn quota(&self, code: &str) -> Answer<Option<f64>> {
        let call = aws_sdk_servicequotas::Client::new(&self.config).get_service_quota();
        let answer = call.service_code("ec2").quota_code(code).send().await;
        Ok(answer.map_err(|error| failed("GetServiceQuota", &error))?.quota.and_then(|quota| quota.value))
    }

    pub async fn parameter(&self, name: &str) -> Answer<Option<String>> {
        match self.ssm.get_parameter().name(name).send().await.map_err(|error| failed("GetParameter", &error)) {
            Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes an AMI's id where launches can look it up; Parameter Store checks that it is one.
    pub async fn put_image_parameter(&self, name: &str, image: &str) -> Answer<()> {
        let call = self.ssm.put_parameter().name(name).value(image).overwrite(true);
        let call = call.r#type(aws_sdk_ssm::types::ParameterType::String).data_type("aws:ec2:image");
        call.send().await.map_err(|error| failed("PutParameter", &error))?;
        Ok(())
    }

    // Images.

    /// Images of these owners (account ids, `self`, `amazon`) that match every filter, deprecated ones too.
    pub async fn images(&self, owners: &[&str], filters: &[(&str, &str)]) -> Answer<Vec<Image>> {
        let call = self.ec2.describe_images().set_filters(sdk_filters(filters)).include_deprecated(true);
        let call = call.set_owners(Some(owners.iter().map(|owner| (*owner).to_owned()).collect()));
        let pages = call.into_paginator().items().send().collect::<std::result::Result<Vec<_>, _>>().await;
        Ok(pages.map_err(|error| failed("DescribeImages", &error))?.into_iter().map(image).collect())
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

    /// Makes an image of an instance as it is; the tags go on it and on its snapshots.
    pub async fn create_image(&self, instance: &str, name: &str, about: &str, tags: &Tags) -> Answer<String> {
        let call = self.ec2.create_image().instance_id(instance).name(name).description(about).no_reboot(true);
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

    // The network and what is offered.

    /// What EC2 says of a type; `None` where the region does not have it.
    pub async fn instance_type(&self, name: &str) -> Answer<Option<TypeInfo>> {
        let wanted = sdk_filters(&[("instance-type", name)]);
        let answer = self.ec2.describe_instance_types().set_filters(wanted).send().await;
        let answer = answer.map_err(|error| failed("DescribeInstanceTypes", &error))?;
        Ok(answer.instance_types.unwrap_or_default().into_iter().next().map(type_info))
    }

    /// The zones that offer a type.
    pub async fn zones_with(&self, kind: &str) -> Answer<Vec<String>> {
        let call = self.ec2.describe_instance_type_offerings().location_type(sdk::LocationType::AvailabilityZone);
        let pages = call.set_filters(sdk_filters(&[("instance-type", kind)])).into_paginator().items().send();
        let offerings = pages.collect::<std::result::Result<Vec<_>, _>>().await;
        let offerings = offerings.map_err(|error| failed("DescribeInstanceTypeOfferings", &error))?;
        let mut zones: Vec<String> = offerings.into_iter().filter_map(|offering| offering.location).collect();
        zones.sort();
        Ok(zones)
    }

    pub async fn subnets(&self, filters: &[(&str, &str)]) -> Answer<Vec<Subnet>> {
        let pages = self.ec2.describe_subnets().set_filters(sdk_filters(filters)).into_paginator().items().send();
        let subnets = pages.collect::<std::result::Result<Vec<_>, _>>().await;
        let subnets = subnets.map_err(|error| failed("DescribeSubnets", &error))?;
        let subnet = |subnet: sdk::Subnet| Subnet {
            id: text(subnet.subnet_id),
            vpc: text(subnet.vpc_id),
            zone: text(subnet.availability_zone),
            default: subnet.default_for_az.unwrap_or(false),
            public_addresses: subnet.map_public_ip_on_launch.unwrap_or(false),
            free_addresses: subnet.available_ip_address_count.unwrap_or(0),
        };
        Ok(subnets.into_iter().map(subnet).collect())
    }

    /// Where a subnet's default route leads: the id of a gateway (`igw-...`, `nat-...`), or nothing.
    pub async fn default_route(&self, subnet: &Subnet) -> Answer<Option<String>> {
        let own = self.route_tables(&[("association.subnet-id", &subnet.id)]).await?;
        let tables = match own.is_empty() {
            true => self.route_tables(&[("vpc-id", &subnet.vpc), ("association.main", "true")]).await?,
            false => own,
        };
        let routes = tables.into_iter().flat_map(|table| table.routes.unwrap_or_default());
        let mut defaults = routes.filter(|route| route.destination_cidr_block.as_deref() == Some("0.0.0.0/0"));
        Ok(defaults.next().and_then(|route| {
            let via = [route.gateway_id, route.nat_gateway_id, route.transit_gateway_id, route.network_interface_id];
            via.into_iter().flatten().next()
        }))
    }

    async fn route_tables(&self, filters: &[(&str, &str)]) -> Answer<Vec<sdk::RouteTable>> {
        let answer = self.ec2.describe_route_tables().set_filters(sdk_filters(filters)).send().await;
        Ok(answer.map_err(|error| failed("DescribeRouteTables", &error))?.route_tables.unwrap_or_default())
    }

    pub async fn create_group(&self, name: &str, about: &str, vpc: &str, tags: &Tags, dry_run: bool) -> Answer<String> {
        let call = self.ec2.create_security_group().group_name(name).description(about).vpc_id(vpc).dry_run(dry_run);
        let call = call.tag_specifications(tagged(sdk::ResourceType::SecurityGroup, tags));
        Ok(text(call.send().await.map_err(|error| failed("CreateSecurityGroup", &error))?.group_id))
    }

    /// Ids of security groups.
    pub async fn groups(&self, filters: &[(&str, &str)]) -> Answer<Vec<String>> {
        let call = self.ec2.describe_security_groups().set_filters(sdk_filters(filters));
        let found = call.into_paginator().items().send().collect::<std::result::Result<Vec<_>, _>>().await;
        let found = found.map_err(|error| failed("DescribeSecurityGroups", &error))?;
        Ok(found.into_iter().filter_map(|group| group.group_id).collect())
    }

    /// Lets these addresses reach port 22. That it is so already is no error.
    pub async fn allow_ssh(&self, group: &str, cidrs: &[String]) -> Answer<()> {
        let mut rule = sdk::IpPermission::builder().ip_protocol("tcp").from_port(22).to_port(22);
        for cidr in cidrs {
            rule = match cidr.contains(':') {
                true => rule.ipv6_ranges(sdk::Ipv6Range::builder().cidr_ipv6(cidr).build()),
                false => rule.ip_ranges(sdk::IpRange::builder().cidr_ip(cidr).build()),
            };
        }
        let call = self.ec2.authorize_security_group_ingress().group_id(group).ip_permissions(rule.build());
        unless_duplicate(call.send().await.map(drop).map_err(|error| failed("AuthorizeSecurityGroupIngress", &error)))
    }

    /// Guide step 1: all traffic between the group's own members, both ways, which EFA needs.
    pub async fn allow_members(&self, group: &str) -> Answer<()> {
        let pair = sdk::UserIdGroupPair::builder().group_id(group).build();
        let rule = sdk::IpPermission::builder().ip_protocol("-1").user_id_group_pairs(pair).build();
        let call = self.ec2.authorize_security_group_ingress().group_id(group).ip_permissions(rule.clone());
        let answer = call.send().await.map(drop).map_err(|error| failed("AuthorizeSecurityGroupIngress", &error));
        unless_duplicate(answer)?;
        let call = self.ec2.authorize_security_group_egress().group_id(group).ip_permissions(rule);
        unless_duplicate(call.send().await.map(drop).map_err(|error| failed("AuthorizeSecurityGroupEgress", &error)))
    }

    /// Imports the public half of a key pair (one line of OpenSSH).
    pub async fn import_key(&self, name: &str, public: &str, tags: &Tags, dry_run: bool) -> Answer<()> {
        let material = aws_sdk_ec2::primitives::Blob::new(public.as_bytes());
        let call = self.ec2.import_key_pair().key_name(name).public_key_material(material).dry_run(dry_run);
        let call = call.tag_specifications(tagged(sdk::ResourceType::KeyPair, tags));
        call.send().await.map_err(|error| failed("ImportKeyPair", &error))?;
        Ok(())
    }

    // Instances.

    /// Launches one builder.
    pub async fn launch(&self, launch: &Launch, dry_run: bool) -> Answer<Instance> {
        let answer = self.run_instances(launch).dry_run(dry_run).send().await;
        let answer = answer.map_err(|error| failed("RunInstances", &error))?;
        let none = || ours("RunInstances", "NoInstance", "the answer has no instance".to_owned());
        answer.instances.unwrap_or_default().into_iter().next().map(instance).ok_or_else(none)
    }

    fn run_instances(
        &self,
        launch: &Launch,
    ) -> aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder {
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

    // Whatever a run may have left.

    /// Everything that matches these filters (`tag:...`, `tag-key`), in the order in which it is to be undone.
    pub async fn things(&self, filters: &[(&str, &str)]) -> Answer<Vec<Thing>> {
        let filters = || sdk_filters(filters);
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
        let found = self.ec2.describe_addresses().set_filters(filters()).send().await;
        for found in found.map_err(|error| failed("DescribeAddresses", &error))?.addresses.unwrap_or_default() {
            add(Kind::Address, found.allocation_id, &text(found.public_ip), "", "", tags(found.tags));
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

/// EC2 answers "no capacity" with HTTP 500, which the SDK would try again for minutes; the next zone is the better try.
#[derive(Debug)]
struct NoRoom;

impl ClassifyRetry for NoRoom {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error =
            context.output_or_error().and_then(|result| result.err()).and_then(|error| error.as_operation_error());
        match error.and_then(|error| error.downcast_ref::<RunInstancesError>()).and_then(|error| error.code()) {
            Some("InsufficientInstanceCapacity") => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "no room in this zone"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}

fn unless_duplicate(answer: Answer<()>) -> Answer<()> {
    match answer {
        Err(error) if error.is_duplicate() => Ok(()),
        other => other,
    }
}

/// What the SDK's error says, once: AWS's own code and words, or why AWS was never reached.
fn failed<E, R>(call: &'static str, error: &SdkError<E, R>) -> ApiError
where
    SdkError<E, R>: ProvideErrorMetadata + RequestId + std::error::Error,
{
    let code = match error {
        SdkError::ServiceError(_) => text(error.code().map(str::to_owned)),
        SdkError::TimeoutError(_) => "TimedOut".to_owned(),
        _ if causes(error).contains("credential") => "NoCredentials".to_owned(),
        _ => "NoAnswer".to_owned(),
    };
    let message = match code.as_str() {
        // The SDK lists every place where it looked.
        "NoCredentials" if causes(error).contains("no credentials found") => "no credentials found".to_owned(),
        _ => error.message().map_or_else(|| causes(error), str::to_owned),
    };
    ApiError { call, code, message, request_id: error.request_id().map(str::to_owned) }
}

/// The chain of causes without the SDK's own first words, which say nothing ("dispatch failure").
fn causes(error: &dyn std::error::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.iter().any(|word| word.contains(&said)) {
            words.push(said);
        }
        cause = error.source();
    }
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}

fn waiting(call: &'static str, on: &str, error: &dyn std::error::Error) -> ApiError {
    let said = causes(error);
    match said.is_empty() {
        true => ours(call, "TimedOut", format!("waiting for {on}: {error}")),
        false => ours(call, "TimedOut", format!("waiting for {on}: {error}: {said}")),
    }
}

fn ours(call: &'static str, code: &str, message: String) -> ApiError {
    ApiError { call, code: code.to_owned(), message, request_id: None }
}

fn text(value: Option<String>) -> String {
    value.unwrap_or_default()
}

fn time(value: Option<aws_sdk_ec2::primitives::DateTime>) -> String {
    let text = value.and_then(|time| time.fmt(aws_sdk_ec2::primitives::DateTimeFormat::DateTime).ok());
    text.unwrap_or_default()
}

fn tags(tags: Option<Vec<sdk::Tag>>) -> Tags {
    tags.unwrap_or_default().into_iter().map(|tag| (text(tag.key), text(tag.value))).collect()
}

fn sdk_tags(tags: &Tags) -> Vec<sdk::Tag> {
    tags.iter().map(|(key, value)| sdk::Tag::builder().key(key).value(value).build()).collect()
}

fn tagged(kind: sdk::ResourceType, tags: &Tags) -> sdk::TagSpecification {
    sdk::TagSpecification::builder().resource_type(kind).set_tags(Some(sdk_tags(tags))).build()
}

fn sdk_filters(filters: &[(&str, &str)]) -> Option<Vec<sdk::Filter>> {
    let filter = |(name, value): &(&str, &str)| sdk::Filter::builder().name(*name).values(*value).build();
    Some(filters.iter().map(filter).collect())
}

fn image(image: sdk::Image) -> Image {
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
        deprecated_at: text(image.deprecation_time),
        protection: text(image.deregistration_protection),
        tags: tags(image.tags),
    }
}

fn instance(instance: sdk::Instance) -> Instance {
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

fn type_info(info: sdk::InstanceTypeInfo) -> TypeInfo {
    let efa = info.network_info.as_ref().and_then(|network| network.efa_info.as_ref()?.maximum_efa_interfaces);
    let gpus = info.gpu_info.and_then(|gpus| gpus.gpus).unwrap_or_default();
    let architectures = info.processor_info.and_then(|cpu| cpu.supported_architectures).unwrap_or_default();
    let usage = info.supported_usage_classes.unwrap_or_default();
    TypeInfo {
        vcpus: info.v_cpu_info.and_then(|cpus| cpus.default_v_cpus).unwrap_or(0),
        architectures: architectures.iter().map(|name| name.as_str().to_owned()).collect(),
        efa: efa.unwrap_or(0),
        gpus: gpus.iter().filter_map(|gpu| gpu.count).sum(),
        nitro: info.hypervisor == Some(sdk::InstanceTypeHypervisor::Nitro) || info.bare_metal == Some(true),
        spot: usage.contains(&sdk::UsageClassType::Spot),
    }
}
