//! Owns what every run makes for its machines, a build's or a cluster's: the login key, the security group; and the
//! ledger of whatever it makes. What is there already is found again.

use std::sync::Arc;

use efa_gen::error::Result;

use super::context::RunContext;
use super::tags;
use crate::aws::Aws;
use crate::aws::error::ApiError;
use crate::aws::model::{Instance, LaunchRun, LaunchSpec, Origin, Resource, ResourceKind, Tags};
use crate::io::events::Event;
use crate::io::ssh::KeyType;
use crate::io::{files, ssh, wait};
use crate::timeouts;

/// Repeats a call while EC2 does not know yet what was just made.
pub async fn retry_until_visible<T>(
    mut call: impl AsyncFnMut() -> std::result::Result<T, ApiError>,
) -> std::result::Result<T, ApiError> {
    let mut unknown = None;
    let answer = wait::until(timeouts::VISIBLE, timeouts::VISIBLE_EVERY, async || match call().await {
        Err(error) if error.is_not_found() => {
            unknown = Some(error);
            Ok(None)
        }
        other => other.map(Some),
    });
    match answer.await? {
        Some(answer) => Ok(answer),
        None => Err(unknown.unwrap_or_else(|| ApiError::not_found("Describe", "what was just made"))),
    }
}

/// The name of a run's key pair, group and instance.
pub fn name(run: &str) -> String {
    format!("efa-gen-{run}")
}

/// The description of a run's rules in its security group: it tells them from rules of other people's there.
pub fn rule_of(run: &str) -> String {
    format!("efa-gen run {run}")
}

/// A run's thing as the ledger has it.
pub fn resource(aws: &Aws, kind: ResourceKind, id: &str, run: &str) -> Resource {
    Resource {
        region: aws.region.clone(),
        kind,
        id: id.to_owned(),
        name: String::new(),
        state: String::new(),
        created: String::new(),
        origin: Origin::default(),
        tags: Tags::from([(tags::RUN.to_owned(), run.to_owned())]),
    }
}

/// What makes the resources of one run.
pub struct ResourceFactory<'a> {
    pub run: RunContext<'a>,
    /// On everything that is made.
    pub tags: Tags,
}

/// How the machines of a run learn its login key.
#[derive(Debug, Clone, Default)]
pub struct LoginKey {
    /// Name of an EC2 key pair.
    pub pair: Option<String>,
    /// Or its public line, which the user-data has.
    pub public: Option<String>,
}

impl LoginKey {
    /// Of the run's key with this public line.
    pub fn of(run: &str, public: &str) -> Self {
        match KeyType::of(public).is_ec2s() {
            true => LoginKey { pair: Some(name(run)), public: None },
            false => LoginKey { pair: None, public: Some(public.to_owned()) },
        }
    }
}

impl ResourceFactory<'_> {
    /// The login key: made here, its private half in the run's folder alone, until the run's end. One that is there already
    /// stays, of whatever type.
    pub async fn login_key(&self, asked: Option<KeyType>) -> Result<LoginKey> {
        let run = self.run.state.run.as_str();
        let name = name(run);
        let path = self.run.state.path.join("key");
        let public = match ssh::public_in(&path, "login key")? {
            Some(public) => public,
            None => {
                let kind = KeyType::wanted(asked);
                if asked.is_none() && !kind.is_ec2s() {
                    let words = "this machine is in FIPS mode: the login key is an ECDSA one, given in the user-data (--key-type)";
                    self.run.events.note(words);
                }
                let pair = ssh::new_key(&name, kind)?;
                files::write_durably(&path, pair.private.as_bytes(), 0o600)?;
                pair.public
            }
        };
        let key = LoginKey::of(run, &public);
        if key.pair.is_none() {
            return Ok(key);
        }
        match self.run.aws.import_key(&name, &public, &self.tags, false).await {
            Ok(()) => self.run.events.emit(&Event::Made { kind: "key pair", id: name.clone() }),
            // This run's: the name is the run's, the key is the one in its folder.
            Err(error) if error.is_duplicate() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(key)
    }

    /// A security group that lets these addresses reach port 22, and its `members` each other where EFA needs that.
    pub async fn group(&self, vpc: &str, description: &str, ssh_cidrs: &[String], members: bool) -> Result<String> {
        let run = self.run.state.run.as_str();
        let name = name(run);
        let group = match self.run.aws.create_group(&name, description, vpc, &self.tags, false).await {
            Ok(group) => {
                self.record(ResourceKind::SecurityGroup, &group)?;
                group
            }
            Err(error) if error.is_duplicate() => self.group_by_name(&name, vpc).await?,
            Err(error) => return Err(error.into()),
        };
        if !ssh_cidrs.is_empty() {
            retry_until_visible(async || {
                self.run.aws.allow_ssh(&group, ssh_cidrs, &rule_of(&self.run.state.run)).await
            })
            .await?;
        }
        if members {
            retry_until_visible(async || self.run.aws.allow_members(&group).await).await?;
        }
        Ok(group)
    }

    /// Lets these addresses reach port 22 of machines that are there already.
    pub async fn admit(&self, vpc: &str, ssh_cidrs: &[String]) -> Result<()> {
        if ssh_cidrs.is_empty() {
            return Ok(());
        }
        let group = self.group_by_name(&name(&self.run.state.run), vpc).await?;
        Ok(self.run.aws.allow_ssh(&group, ssh_cidrs, &rule_of(&self.run.state.run)).await?)
    }

    async fn group_by_name(&self, name: &str, vpc: &str) -> Result<String> {
        let found = retry_until_visible(async || {
            let groups = self.run.aws.groups(&[("group-name", name), ("vpc-id", vpc)]).await?;
            groups.into_iter().next().ok_or_else(|| ApiError::not_found("DescribeSecurityGroups", name))
        });
        Ok(found.await?)
    }

    /// One RunInstances, which goes on when this is dropped: a clean-up waits for [`RunContext::launch_in_flight`]. Within
    /// EC2's answer, whether the ledger took it.
    pub async fn launch(
        &self,
        spec: &LaunchSpec,
        launch: &LaunchRun,
    ) -> std::result::Result<Result<Vec<Instance>>, ApiError> {
        let (aws, state) = (self.run.aws.clone(), self.run.state.clone());
        let (spec, launch) = (spec.clone(), launch.clone());
        let in_flight = Arc::clone(&self.run.launch_in_flight).lock_owned().await;
        let call = tokio::spawn(async move {
            let _in_flight = in_flight;
            let launched = aws.launch(&spec, &launch, false).await?;
            let written = launched
                .iter()
                .try_for_each(|one| state.record(&resource(&aws, ResourceKind::Instance, &one.id, &state.run)));
            Ok(written.map(|()| launched))
        });
        let answer = call.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        for one in answer.iter().flatten() {
            self.run.events.emit(&Event::Made { kind: ResourceKind::Instance.name(), id: one.id.clone() });
        }
        Ok(answer)
    }

    /// Says that a resource exists, in the ledger first.
    pub fn record(&self, kind: ResourceKind, id: &str) -> Result<()> {
        self.run.state.record(&resource(self.run.aws, kind, id, &self.run.state.run))?;
        self.run.events.emit(&Event::Made { kind: kind.name(), id: id.to_owned() });
        Ok(())
    }
}
