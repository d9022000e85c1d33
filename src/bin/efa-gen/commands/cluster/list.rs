//! Owns `efa-gen cluster ls`: the clusters of an account, as its tags show them.

use crate::aws::resources::instance_resource;
use crate::cli::OutputArg;
use crate::cli::cluster::ClusterLsArgs;
use crate::cluster::nodes::{self};
use crate::commands::{account, list};
use crate::io::terminal;
use crate::run::ownership::Ownership;
use crate::run::{cleanup, tags};
use efa_gen::error::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// A cluster as the account shows it.
#[derive(Debug, Serialize)]
struct ClusterRow {
    region: String,
    cluster: String,
    run: String,
    kind: String,
    zone: String,
    /// By state.
    nodes: BTreeMap<String, usize>,
    until: String,
    /// Ids, the leader first.
    ids: Vec<String>,
}

pub async fn ls(args: &ClusterLsArgs) -> Result<()> {
    let mut rows: Vec<ClusterRow> = Vec::new();
    for aws in account::regions(&args.region, args.profile.as_deref()).await? {
        let mut found =
            aws.instances(&[("tag-key", tags::CLUSTER)]).await.map_err(|error| error.context(&aws.region))?;
        let mut ownership = Ownership::default();
        found.retain(|node| {
            let resource = instance_resource(node, &aws.region);
            let proof = if node.exists() { ownership.of(&resource, &[]) } else { return false };
            if let Err(why) = &proof {
                terminal::message(&format!("note: {}", cleanup::left_alone(&resource, why)));
            }
            proof.is_ok()
        });
        nodes::sort(&mut found);
        for node in found {
            let of = |tag: &str| node.tags.get(tag).cloned().unwrap_or_default();
            let run = of(tags::RUN);
            let known = rows.iter().position(|row| row.run == run && row.region == aws.region);
            let index = known.unwrap_or(rows.len());
            if known.is_none() {
                rows.push(ClusterRow {
                    region: aws.region.clone(),
                    cluster: of(tags::CLUSTER),
                    run,
                    kind: node.instance_type.clone(),
                    zone: node.zone.clone(),
                    nodes: BTreeMap::new(),
                    until: of(tags::UNTIL),
                    ids: Vec::new(),
                });
            }
            let row = &mut rows[index];
            *row.nodes.entry(node.state).or_default() += 1;
            row.ids.push(node.id);
        }
    }
    if args.output.output == OutputArg::Json {
        return list::json(&rows);
    }
    let cells = rows.into_iter().map(|row| {
        let nodes: Vec<String> = row.nodes.iter().map(|(state, count)| format!("{count} {state}")).collect();
        [row.region, row.cluster, row.kind, row.zone, nodes.join(", "), row.until, row.run]
    });
    list::table(["region", "cluster", "type", "zone", "nodes", "until", "run"], cells)
}
