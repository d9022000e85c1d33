//! Owns the gate: before an image is published, two machines of the type that it is for are launched from it as a cluster, and
//! the NCCL test runs on both. Knows nothing of how a cluster comes about, nor of how a log is judged.

use std::sync::Arc;

use efa_gen::error::{Class, Error, Result};
use efa_gen::nccl::Outcome;
use tokio::sync::watch;

use super::run::{UNTESTED, new_id};
use super::{Build, ENDS, problem, publish, tags};
use crate::cli::cluster::LaunchArgs;
use crate::cli::validate::ValidateArgs;
use crate::cluster::launch::Run;
use crate::cluster::preflight::Preflight;
use crate::cluster::record::Record;
use crate::cluster::{self, Cluster};
use crate::ec2::model::{Image, Instance, Tags};
use crate::validate;

/// As few as make a network test.
pub const NODES: u32 = 2;

/// Name of the cluster on which a run's image is tested.
pub fn name(run: &str) -> String {
    format!("gate-{run}")
}

/// The error of an image that has failed, and is tagged so.
fn refused(image: &Image) -> Error {
    let hint =
        format!("{} is tagged {}=failed and was not published; efa-gen image rm removes it", image.id, tags::VERDICT);
    Error::new(Class::Check, format!("image {} did not pass its gate", image.id)).hint(hint)
}

impl Build<'_> {
    /// An image that fails is tagged so and goes to nobody.
    pub(super) async fn gate(&mut self, image: &Image) -> Result<()> {
        let Some(machine) = &self.ready.gate else { return Ok(()) };
        self.folder.remove(UNTESTED)?;
        match image.tags.get(tags::VERDICT).map(String::as_str) {
            Some("passed") => return Ok(()),
            Some("failed") => return Err(refused(image)),
            _ => {}
        }
        self.talk.step(format!("Test the image on {NODES} x {}", machine.kind));
        let verdict = self.tested(image, &machine.kind).await;
        let (word, state) = match &verdict {
            Ok(()) => ("passed", tags::BUILDING),
            Err(error) if error.class() == Class::Check => ("failed", tags::REFUSED),
            // A machine that can't be had or a connection that was lost says nothing of the image: it waits for another try.
            Err(_) => {
                let kept: Vec<&String> = [&image.id].into_iter().chain(&image.snapshots).collect();
                self.folder.write(UNTESTED, &kept)?;
                return verdict;
            }
        };
        let tags =
            Tags::from([(tags::VERDICT.to_owned(), word.to_owned()), (tags::STATE.to_owned(), state.to_owned())]);
        publish::tag_and_see(self.aws, image, &tags).await?;
        verdict.map_err(|error| refused(image).because(error))
    }

    /// Errors: [`Class::Check`] where the image is at fault; any other class says nothing of it.
    async fn tested(&self, image: &Image, kind: &str) -> Result<()> {
        let name = name(&self.folder.run);
        // What a process before this one has left can't be trusted to be as it must.
        self.end_nodes(&name).await?;
        let verdict = self.tested_as(&name, image, kind).await;
        // The verdict was paid for, and the run's clean-up ends them too.
        if let Err(error) = self.end_nodes(&name).await {
            self.talk.note(format!("the machines of the test are not seen to end yet: {error}"));
        }
        verdict
    }

    async fn tested_as(&self, name: &str, image: &Image, kind: &str) -> Result<()> {
        let args = self.cluster_args(image, kind);
        let preflight = Preflight::new(self.aws, self.catalog, None, &args, name).run().await;
        let ready = preflight.map_err(|problems| problem::refuse(self.talk, &problems))?;
        ready.notes.iter().for_each(|note| self.talk.note(note.clone()));
        let mut record = Record::new(&args, &ready, &self.folder.run, self.deadline());
        let mut run = Run {
            aws: self.aws,
            ready: &ready,
            record: &mut record,
            folder: self.folder,
            talk: self.talk,
            plan: None,
            call: new_id(),
            key: String::new(),
            asking: Arc::clone(&self.asking),
        };
        let launched = run.run().await?;
        // One machine may be a bad one, a clock may be wrong: the test's verdict alone is the image's.
        for (node, what) in &launched.checked.findings {
            self.talk.note(format!("{node}: {what}"));
        }
        let cluster = Cluster { aws: self.aws.clone(), record, folder: self.folder.clone(), nodes: launched.nodes };
        self.judged(&cluster).await
    }

    /// The test, from the first of the nodes.
    async fn judged(&self, cluster: &Cluster) -> Result<()> {
        let log = self.folder.path.join("gate.log");
        let args = ValidateArgs::of_cluster(&cluster.record.name, &self.args.account, Some(log));
        let kind = self.catalog.instance_type(&cluster.record.kind).ok();
        let order = validate::prepare::order(&args, self.catalog, kind, Some(cluster), self.talk).await?;
        // A signal ends the whole build, and the machines with it.
        let (_keep, stop) = watch::channel(0);
        for ran in validate::make(&order, self.talk, &stop).await?.runs {
            self.talk.note(format!("NCCL test: {}", ran.verdict.sentence));
            ran.verdict.notes.iter().for_each(|note| self.talk.note(note.clone()));
            let findings: Vec<String> =
                ran.verdict.findings.iter().map(|finding| format!("{} ({})", finding.what, finding.to_do)).collect();
            if ran.verdict.outcome == Outcome::Pass {
                findings.into_iter().for_each(|warning| self.talk.note(warning));
                continue;
            }
            let (count, word) = (cluster.nodes.len(), ran.verdict.outcome.word());
            let message = format!("the NCCL test on {count} machines: {word}; its log is {}", ran.log.display());
            return Err(Error::new(Class::Check, message).because(findings.join("\n")));
        }
        Ok(())
    }

    fn cluster_args(&self, image: &Image, kind: &str) -> LaunchArgs {
        let mut reach = self.args.reach.clone();
        reach.ssh_cidr.clone_from(&self.ready.ssh_cidrs);
        LaunchArgs {
            name: None,
            ami: Some(image.id.clone()),
            distro: Some(self.plan.distribution.clone()),
            install: false,
            recipe: self.args.recipe.clone(),
            nodes: NODES,
            at_least: None,
            kind: kind.to_owned(),
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
        let mut there = self.aws.instances(&[(&filter, name)]).await?;
        there.retain(Instance::is_there);
        cluster::sort(&mut there);
        let ids: Vec<String> = there.into_iter().map(|node| node.id).collect();
        if !ids.is_empty() {
            self.aws.terminate(&ids, ENDS).await?;
        }
        Ok(())
    }
}
