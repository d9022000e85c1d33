//! Owns where a machine stands and how it is reached: types, zones, subnets, routes, security groups and key pairs.

use aws_sdk_ec2::types as sdk;

use super::client::{Answer, Aws, all_pages, failed, sdk_filters, tagged, text};
use super::model::{Members, Reservation, SshRule, Subnet, Tags, TypeInfo};

/// Every address: the destination of a route to whatever no other route covers. It is looked for, and given to no rule.
const DEFAULT_ROUTE: &str = "0.0.0.0/0";

impl Aws {
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
        let offerings =
            all_pages!("DescribeInstanceTypeOfferings", call.set_filters(sdk_filters(&[("instance-type", kind)])))?;
        let mut zones: Vec<String> = offerings.into_iter().filter_map(|offering| offering.location).collect();
        zones.sort();
        Ok(zones)
    }

    pub async fn subnets(&self, filters: &[(&str, &str)]) -> Answer<Vec<Subnet>> {
        let subnets = all_pages!("DescribeSubnets", self.ec2.describe_subnets().set_filters(sdk_filters(filters)))?;
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

    /// Where a subnet's default route leads: the id of a gateway (`igw-...`, `nat-...`), or nothing. A route whose target is
    /// gone leads nowhere.
    pub async fn default_route(&self, subnet: &Subnet) -> Answer<Option<String>> {
        let own = self.route_tables(&[("association.subnet-id", &subnet.id)]).await?;
        let tables = match own.is_empty() {
            true => self.route_tables(&[("vpc-id", &subnet.vpc), ("association.main", "true")]).await?,
            false => own,
        };
        let routes = tables.into_iter().flat_map(|table| table.routes.unwrap_or_default());
        let mut defaults = routes.filter(|route| {
            route.destination_cidr_block.as_deref() == Some(DEFAULT_ROUTE)
                && route.state != Some(sdk::RouteState::Blackhole)
        });
        Ok(defaults.next().and_then(|route| {
            let via = [route.gateway_id, route.nat_gateway_id, route.transit_gateway_id, route.network_interface_id];
            via.into_iter().flatten().next()
        }))
    }

    async fn route_tables(&self, filters: &[(&str, &str)]) -> Answer<Vec<sdk::RouteTable>> {
        let answer = self.ec2.describe_route_tables().set_filters(sdk_filters(filters)).send().await;
        Ok(answer.map_err(|error| failed("DescribeRouteTables", &error))?.route_tables.unwrap_or_default())
    }

    pub async fn create_group(
        &self,
        name: &str,
        description: &str,
        vpc: &str,
        tags: &Tags,
        dry_run: bool,
    ) -> Answer<String> {
        let call =
            self.ec2.create_security_group().group_name(name).description(description).vpc_id(vpc).dry_run(dry_run);
        let call = call.tag_specifications(tagged(sdk::ResourceType::SecurityGroup, tags));
        Ok(text(call.send().await.map_err(|error| failed("CreateSecurityGroup", &error))?.group_id))
    }

    /// Ids of security groups.
    pub async fn groups(&self, filters: &[(&str, &str)]) -> Answer<Vec<String>> {
        let call = self.ec2.describe_security_groups().set_filters(sdk_filters(filters));
        let found = all_pages!("DescribeSecurityGroups", call)?;
        Ok(found.into_iter().filter_map(|group| group.group_id).collect())
    }

    /// Lets these addresses reach port 22, by rules of this description. That it is so already is no error.
    pub async fn allow_ssh(&self, group: &str, cidrs: &[String], description: &str) -> Answer<()> {
        // One call each: where one of them is allowed already, EC2 refuses the whole call.
        for cidr in cidrs {
            let call = self.ec2.authorize_security_group_ingress().group_id(group);
            let answer = call.ip_permissions(ssh_permission(cidr, description)).send().await.map(drop);
            unless_duplicate(answer.map_err(|error| failed("AuthorizeSecurityGroupIngress", &error)))?;
        }
        Ok(())
    }

    /// Takes back a rule of [`Aws::ssh_rules`] that [`Aws::allow_ssh`] made. That it is gone already is no error.
    pub async fn revoke_ssh(&self, group: &str, rule: &SshRule) -> Answer<()> {
        let call = self.ec2.revoke_security_group_ingress().group_id(group);
        let answer = call.ip_permissions(ssh_permission(&rule.source, &rule.description)).send().await.map(drop);
        match answer.map_err(|error| failed("RevokeSecurityGroupIngress", &error)) {
            Err(error) if error.code == "InvalidPermission.NotFound" => Ok(()),
            other => other,
        }
    }

    /// The rules by which anybody but the group's own members reaches port 22.
    pub async fn ssh_rules(&self, group: &str) -> Answer<Vec<SshRule>> {
        let answer = self.ec2.describe_security_groups().group_ids(group).send().await;
        let answer = answer.map_err(|error| failed("DescribeSecurityGroups", &error))?;
        let groups = answer.security_groups.unwrap_or_default();
        let permissions = groups.into_iter().flat_map(|found| found.ip_permissions.unwrap_or_default());
        Ok(permissions.flat_map(|permission| rules_of(permission, group)).collect())
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

    /// What a group lets its own members do; `None` if it is not there. A rule for every address does not name the group,
    /// and is not enough for EFA outward (aws/aws-parallelcluster, EfaSecurityGroupValidator).
    pub async fn members(&self, group: &str) -> Answer<Option<(String, Members)>> {
        let answer = self.ec2.describe_security_groups().group_ids(group).send().await;
        let found = match answer.map_err(|error| failed("DescribeSecurityGroups", &error)) {
            Ok(answer) => answer.security_groups.unwrap_or_default().into_iter().next(),
            Err(error) if error.is_not_found() || error.code == "InvalidGroupId.Malformed" => None,
            Err(error) => return Err(error),
        };
        let itself = |rules: Option<Vec<sdk::IpPermission>>| {
            rules.unwrap_or_default().iter().any(|rule| {
                let pairs = rule.user_id_group_pairs.iter().flatten();
                rule.ip_protocol.as_deref() == Some("-1")
                    && pairs.into_iter().any(|pair| pair.group_id.as_deref() == Some(group))
            })
        };
        Ok(found.map(|found| {
            let members =
                Members { inward: itself(found.ip_permissions), outward: itself(found.ip_permissions_egress) };
            (text(found.vpc_id), members)
        }))
    }

    /// Makes a placement group whose machines are near each other.
    pub async fn create_placement_group(&self, name: &str, tags: &Tags, dry_run: bool) -> Answer<()> {
        let call = self.ec2.create_placement_group().group_name(name).strategy(sdk::PlacementStrategy::Cluster);
        let call = call.tag_specifications(tagged(sdk::ResourceType::PlacementGroup, tags)).dry_run(dry_run);
        call.send().await.map_err(|error| failed("CreatePlacementGroup", &error))?;
        Ok(())
    }

    /// Allocates an elastic address; returns its id.
    pub async fn allocate_address(&self, tags: &Tags, dry_run: bool) -> Answer<String> {
        let call = self.ec2.allocate_address().domain(sdk::DomainType::Vpc).dry_run(dry_run);
        let call = call.tag_specifications(tagged(sdk::ResourceType::ElasticIp, tags));
        Ok(text(call.send().await.map_err(|error| failed("AllocateAddress", &error))?.allocation_id))
    }

    /// Gives a network interface an elastic address. That it has it already is no error.
    pub async fn associate_address(&self, address: &str, interface: &str) -> Answer<()> {
        let call = self.ec2.associate_address().allocation_id(address).network_interface_id(interface);
        call.send().await.map_err(|error| failed("AssociateAddress", &error))?;
        Ok(())
    }

    /// The capacity reservation or capacity block with this id.
    pub async fn reservation(&self, id: &str) -> Answer<Option<Reservation>> {
        let answer = self.ec2.describe_capacity_reservations().capacity_reservation_ids(id).send().await;
        let found = match answer.map_err(|error| failed("DescribeCapacityReservations", &error)) {
            Ok(answer) => answer.capacity_reservations.unwrap_or_default().into_iter().next(),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        Ok(found.map(|found| Reservation {
            id: text(found.capacity_reservation_id),
            instance_type: text(found.instance_type),
            zone: text(found.availability_zone),
            state: found.state.map_or(String::new(), |state| state.as_str().to_owned()),
            free: found.available_instance_count.unwrap_or(0),
            block: found.reservation_type == Some(sdk::CapacityReservationType::CapacityBlock),
        }))
    }

    /// Imports the public half of a key pair (one line of OpenSSH).
    pub async fn import_key(&self, name: &str, public: &str, tags: &Tags, dry_run: bool) -> Answer<()> {
        let material = aws_sdk_ec2::primitives::Blob::new(public.as_bytes());
        let call = self.ec2.import_key_pair().key_name(name).public_key_material(material).dry_run(dry_run);
        let call = call.tag_specifications(tagged(sdk::ResourceType::KeyPair, tags));
        call.send().await.map_err(|error| failed("ImportKeyPair", &error))?;
        Ok(())
    }
}

fn ssh_permission(cidr: &str, description: &str) -> sdk::IpPermission {
    let description = Some(description.to_owned()).filter(|text| !text.is_empty());
    let rule = sdk::IpPermission::builder().ip_protocol("tcp").from_port(22).to_port(22);
    let rule = match cidr.contains(':') {
        true => rule.ipv6_ranges(sdk::Ipv6Range::builder().cidr_ipv6(cidr).set_description(description).build()),
        false => rule.ip_ranges(sdk::IpRange::builder().cidr_ip(cidr).set_description(description).build()),
    };
    rule.build()
}

/// The rules of a permission that port 22 is among; none of the group's own members.
fn rules_of(permission: sdk::IpPermission, group: &str) -> Vec<SshRule> {
    let ports = (permission.from_port.unwrap_or(0), permission.to_port.unwrap_or(65535));
    let (exact, reaches) = match permission.ip_protocol.as_deref() {
        // The number is TCP's (IANA, "Protocol Numbers").
        Some("tcp" | "6") => (ports == (22, 22), (ports.0..=ports.1).contains(&22)),
        protocol => (false, protocol == Some("-1")),
    };
    let (v4, v6) = (permission.ip_ranges.unwrap_or_default(), permission.ipv6_ranges.unwrap_or_default());
    let v4 = v4.into_iter().map(|range| (range.cidr_ip, range.description, exact));
    let v6 = v6.into_iter().map(|range| (range.cidr_ipv6, range.description, exact));
    let lists = permission.prefix_list_ids.unwrap_or_default().into_iter();
    let lists = lists.map(|list| (list.prefix_list_id, list.description, false));
    let groups = permission.user_id_group_pairs.unwrap_or_default().into_iter();
    let groups = groups.filter(|pair| pair.group_id.as_deref() != Some(group));
    let groups = groups.map(|pair| (pair.group_id, pair.description, false));
    let all = v4.chain(v6).chain(lists).chain(groups).filter(|_| reaches);
    all.map(|(source, description, ssh_alone)| SshRule {
        source: text(source),
        description: text(description),
        ssh_alone,
    })
    .collect()
}

fn unless_duplicate(answer: Answer<()>) -> Answer<()> {
    match answer {
        Err(error) if error.is_duplicate() => Ok(()),
        other => other,
    }
}

fn type_info(info: sdk::InstanceTypeInfo) -> TypeInfo {
    let efa = info.network_info.as_ref().and_then(|network| network.efa_info.as_ref()?.maximum_efa_interfaces);
    let cards = info.network_info.as_ref().and_then(|network| network.maximum_network_cards);
    let placement = info.placement_group_info.and_then(|placement| placement.supported_strategies);
    let strategies = placement.unwrap_or_default();
    let gpus = info.gpu_info.and_then(|gpus| gpus.gpus).unwrap_or_default();
    let architectures = info.processor_info.and_then(|cpu| cpu.supported_architectures).unwrap_or_default();
    let boot_modes = info.supported_boot_modes.unwrap_or_default();
    let usage = info.supported_usage_classes.unwrap_or_default();
    TypeInfo {
        vcpus: info.v_cpu_info.and_then(|cpus| cpus.default_v_cpus).unwrap_or(0),
        architectures: architectures.iter().map(|name| name.as_str().to_owned()).collect(),
        boot_modes: boot_modes.iter().map(|mode| mode.as_str().to_owned()).collect(),
        efa: efa.and_then(|efa| u32::try_from(efa).ok()).unwrap_or(0),
        cards: cards.and_then(|cards| u32::try_from(cards).ok()).unwrap_or(1),
        clusters: strategies.contains(&sdk::PlacementGroupStrategy::Cluster),
        gpus: gpus.iter().filter_map(|gpu| gpu.count).fold(0, i32::saturating_add),
        nitro: info.hypervisor == Some(sdk::InstanceTypeHypervisor::Nitro) || info.bare_metal == Some(true),
        spot: usage.contains(&sdk::UsageClassType::Spot),
    }
}
