//! Owns the gate: before an image is published, two machines of the type that it is for are launched from it as a
//! cluster, and the NCCL test runs on both.

use efa_gen::error::{Class, Error, Result};
use efa_gen::nccl::Outcome;
use tokio::sync::watch;

use super::build::Build;
use super::preflight::{GATE_NODES, gate_name};
use super::publish;
use crate::aws::model::{Image, Tags};
use crate::aws::resources::instance_resource;
use crate::cli::cluster::LaunchArgs;
use crate::cli::validate::ValidateArgs;
use crate::cluster::launch::{self, LaunchSession};
use crate::cluster::nodes::{Cluster, sort};
use crate::cluster::preflight::{ClusterIdentity, LaunchPreflight};
use crate::nccl_test;
use crate::preflight::problem;
use crate::run::id::new_call;
use crate::run::ownership::Ownership;
use crate::run::resources::LoginKey;
use crate::run::state::UNTESTED;
use crate::run::tags;
use crate::timeouts;

/// The error of an image that has failed, and is tagged so.
fn refused(image: &Image) -> Error {
    let hint =
        format!("{} is tagged {}=failed and was not published; efa-gen image rm removes it", image.id, tags::VERDICT);
    Error::new(Class::Check, format!("image {} did not pass its gate", image.id)).hint(hint)
}

impl Build<'_> {
    /// An image that fails is tagged so and goes to nobody.
    pub(crate) async fn gate(&mut self, image: &Image) -> Result<()> {
        let Some(machine) = &self.resolved.gate else { return Ok(()) };
        self.run.state.remove(UNTESTED)?;
        match image.tags.get(tags::VERDICT).map(String::as_str) {
            Some("passed") => return Ok(()),
            Some("failed") => return Err(refused(image)),
            _ => {}
        }
        self.run.events.step(format!("Test the image on {GATE_NODES} x {}", machine.instance_type));
        let verdict = self.test(image, &machine.instance_type).await;
        let (word, state) = match &verdict {
            Ok(()) => ("passed", tags::BUILDING),
            Err(error) if error.class() == Class::Check => ("failed", tags::REFUSED),
            // A machine that can't be had or a connection that was lost says nothing of the image: it waits for another try.
            Err(_) => {
                let kept: Vec<&String> = [&image.id].into_iter().chain(&image.snapshots).collect();
                self.run.state.write(UNTESTED, &kept)?;
                return verdict;
            }
        };
        let tags =
            Tags::from([(tags::VERDICT.to_owned(), word.to_owned()), (tags::STATE.to_owned(), state.to_owned())]);
        publish::tag_and_see(self.run.aws, image, &tags).await?;
        verdict.map_err(|error| refused(image).with_source(error))
    }

    /// Errors: [`Class::Check`] where the image is at fault; any other class says nothing of it.
    async fn test(&self, image: &Image, kind: &str) -> Result<()> {
        let name = gate_name(&self.run.state.run);
        // What a process before this one has left can't be trusted to be as it must.
        self.end_nodes(&name).await?;
        let verdict = self.launch_and_test(&name, image, kind).await;
        // The verdict was paid for, and the run's clean-up ends them too.
        if let Err(error) = self.end_nodes(&name).await {
            self.run.events.note(format!("the machines of the test are not seen to end yet: {error}"));
        }
        verdict
    }

    async fn launch_and_test(&self, name: &str, image: &Image, kind: &str) -> Result<()> {
        let args = self.cluster_args(image, kind);
        let deadline = self.deadline();
        let identity = ClusterIdentity { run: &self.run.state.run, name, deadline, grows: false };
        let preflight = LaunchPreflight::new(self.run.aws, self.catalog, None, &args, identity).run().await;
        let resolved = preflight.map_err(|problems| problem::refuse(self.run.events, &problems))?;
        resolved.notes.iter().for_each(|note| self.run.events.note(note.clone()));
        let mut record = launch::record(&args, &resolved, &self.run.state.run, deadline);
        let mut run = LaunchSession {
            run: self.run.clone(),
            resolved: &resolved,
            record: &mut record,
            plan: None,
            call: new_call(&self.run.state.run),
            key: LoginKey::default(),
        };
        let launched = run.run().await?;
        // One machine may be a bad one, a clock may be wrong: the test's verdict alone is the image's.
        for (node, what) in launched.checked.findings.iter().chain(&launched.checked.not_read) {
            self.run.events.note(format!("{node}: {what}"));
        }
        let cluster =
            Cluster { aws: self.run.aws.clone(), record, state: self.run.state.clone(), nodes: launched.nodes };
        self.judge_test(&cluster).await
    }

    /// The test, from the first of the nodes.
    async fn judge_test(&self, cluster: &Cluster) -> Result<()> {
        let log = self.run.state.path.join("gate.log");
        let args = ValidateArgs::of_cluster(&cluster.record.name, &self.args.account, Some(log));
        let kind = self.catalog.instance_type(&cluster.record.instance_type).ok();
        let spec = nccl_test::prepare::spec(&args, self.catalog, kind, Some(cluster), self.run.events).await?;
        // A signal ends the whole build, and the machines with it.
        let (_keep, stop) = watch::channel(0);
        for ran in nccl_test::make(&spec, self.run.events, &stop).await?.runs {
            self.run.events.note(format!("NCCL test: {}", ran.verdict.sentence));
            ran.verdict.notes.iter().for_each(|note| self.run.events.note(note.clone()));
            let findings: Vec<String> =
                ran.verdict.findings.iter().map(|finding| format!("{} ({})", finding.what, finding.to_do)).collect();
            if ran.verdict.outcome == Outcome::Pass {
                findings.into_iter().for_each(|warning| self.run.events.note(warning));
                continue;
            }
            let (count, word) = (cluster.nodes.len(), ran.verdict.outcome.word());
            let message = format!("the NCCL test on {count} machines: {word}; its log is {}", ran.log.display());
            return Err(Error::new(Class::Check, message).with_source(findings.join("\n")));
        }
        Ok(())
    }

    fn cluster_args(&self, image: &Image, kind: &str) -> LaunchArgs {
        let mut reach = self.args.reach.clone();
        reach.ssh_cidr.clone_from(&self.resolved.ssh_cidrs);
        LaunchArgs {
            name: None,
            ami: Some(image.id.clone()),
            distro: Some(self.plan.distribution.clone()),
            install: false,
            recipe: self.args.recipe.clone(),
            nodes: GATE_NODES,
            at_least: None,
            instance_type: kind.to_owned(),
            account: self.args.account.clone(),
            reach,
            subnet: self.args.builder.subnet.clone(),
            security_group: None,
            no_placement_group: false,
            capacity_reservation: None,
            root_gib: None,
            // The builder's deadline is the nodes' as well.
            ttl: String::new(),
            tag: self.args.builder.tag.clone(),
            plan: false,
            keep: true,
            output: self.args.output,
        }
    }

    async fn end_nodes(&self, name: &str) -> Result<()> {
        let filter = format!("tag:{}", tags::CLUSTER);
        let mut there = self.run.aws.instances(&[(&filter, name)]).await?;
        let mut ownership = Ownership::default();
        there.retain(|node| node.exists() && ownership.of(&instance_resource(node, &self.run.aws.region), &[]).is_ok());
        sort(&mut there);
        let ids: Vec<String> = there.into_iter().map(|node| node.id).collect();
        if !ids.is_empty() {
            self.run.aws.terminate(&ids, timeouts::TERMINATION).await?;
        }
        Ok(())
    }
}
