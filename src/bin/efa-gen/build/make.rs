//! Owns what every run makes for its machines, a build's or a cluster's: the login key, the security group; and the ledger of
//! whatever it makes. What is there already is found again. Knows nothing of the machines.

use std::sync::Arc;
use std::time::Duration;

use efa_gen::error::Result;
use tokio::sync::Mutex;

use super::run::Folder;
use super::tags;
use crate::ec2::Aws;
use crate::ec2::model::{Instance, Kind, Launch, Tags, Thing};
use crate::ec2::refusal::ApiError;
use crate::events::{Event, Talk};
use crate::{files, ssh};

/// How long EC2 may take to know what it has just made (AWS EC2 API Reference, "Eventual consistency").
const SETTLES: Duration = Duration::from_secs(60);

/// Repeats a call while EC2 does not know yet what was just made.
pub async fn settled<T>(
    mut call: impl AsyncFnMut() -> std::result::Result<T, ApiError>,
) -> std::result::Result<T, ApiError> {
    let end = tokio::time::Instant::now() + SETTLES;
    loop {
        match call().await {
            Err(error) if error.is_not_found() && tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            other => return other,
        }
    }
}

/// The name of a run's key pair, group and instance.
pub fn name(run: &str) -> String {
    format!("efa-gen-{run}")
}

/// A run's thing as the ledger has it.
pub fn thing(aws: &Aws, kind: Kind, id: &str, run: &str) -> Thing {
    Thing {
        region: aws.region.clone(),
        kind,
        id: id.to_owned(),
        name: String::new(),
        state: String::new(),
        created: String::new(),
        tags: Tags::from([(tags::RUN.to_owned(), run.to_owned())]),
    }
}

/// What makes things for one run.
pub struct Maker<'a> {
    pub aws: &'a Aws,
    pub folder: &'a Folder,
    pub talk: &'a Talk,
    /// On everything that is made.
    pub tags: Tags,
}

impl Maker<'_> {
    /// The login key: made here, its private half in the run's folder alone, until the run's end.
    pub async fn key_pair(&self) -> Result<String> {
        let run = self.folder.run.as_str();
        let name = name(run);
        let path = self.folder.path.join("key");
        let public = match ssh::public_in(&path, "login key")? {
            Some(public) => public,
            None => {
                let pair = ssh::new_key(&name)?;
                files::write(&path, pair.private.as_bytes(), 0o600)?;
                pair.public
            }
        };
        match self.aws.import_key(&name, &public, &self.tags, false).await {
            Ok(()) => self.talk.emit(&Event::Made { kind: "key pair", id: name.clone() }),
            // This run's: the name is the run's, the key is the one in its folder.
            Err(error) if error.is_duplicate() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(name)
    }

    /// A security group that lets these addresses reach port 22, and its `members` each other where EFA needs that.
    pub async fn group(&self, vpc: &str, about: &str, ssh_cidrs: &[String], members: bool) -> Result<String> {
        let run = self.folder.run.as_str();
        let name = name(run);
        let group = match self.aws.create_group(&name, about, vpc, &self.tags, false).await {
            Ok(group) => {
                self.made(Kind::SecurityGroup, &group)?;
                group
            }
            Err(error) if error.is_duplicate() => self.group_by_name(&name, vpc).await?,
            Err(error) => return Err(error.into()),
        };
        if !ssh_cidrs.is_empty() {
            settled(async || self.aws.allow_ssh(&group, ssh_cidrs).await).await?;
        }
        if members {
            settled(async || self.aws.allow_members(&group).await).await?;
        }
        Ok(group)
    }

    /// Lets these addresses reach port 22 of machines that are there already.
    pub async fn admit(&self, vpc: &str, ssh_cidrs: &[String]) -> Result<()> {
        if ssh_cidrs.is_empty() {
            return Ok(());
        }
        let group = self.group_by_name(&name(&self.folder.run), vpc).await?;
        Ok(self.aws.allow_ssh(&group, ssh_cidrs).await?)
    }

    async fn group_by_name(&self, name: &str, vpc: &str) -> Result<String> {
        let found = settled(async || {
            let groups = self.aws.groups(&[("group-name", name), ("vpc-id", vpc)]).await?;
            groups.into_iter().next().ok_or_else(|| ApiError::not_found("DescribeSecurityGroups", name))
        });
        Ok(found.await?)
    }

    /// One RunInstances, which goes on when this is dropped: whoever cleans up waits for `asking`, and then finds in the ledger
    /// what was launched. Within EC2's answer, whether the ledger took it.
    pub async fn launch(
        &self,
        launch: &Launch,
        asking: &Arc<Mutex<()>>,
    ) -> std::result::Result<Result<Vec<Instance>>, ApiError> {
        let (aws, folder, launch) = (self.aws.clone(), self.folder.clone(), launch.clone());
        let under_way = Arc::clone(asking).lock_owned().await;
        let call = tokio::spawn(async move {
            let _under_way = under_way;
            let launched = aws.launch(&launch, false).await?;
            let written =
                launched.iter().try_for_each(|one| folder.made(&thing(&aws, Kind::Instance, &one.id, &folder.run)));
            Ok(written.map(|()| launched))
        });
        let answer = call.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        for one in answer.iter().flatten() {
            self.talk.emit(&Event::Made { kind: Kind::Instance.name(), id: one.id.clone() });
        }
        Ok(answer)
    }

    /// Says that a thing exists, in the ledger first.
    pub fn made(&self, kind: Kind, id: &str) -> Result<()> {
        self.folder.made(&thing(self.aws, kind, id, &self.folder.run))?;
        self.talk.emit(&Event::Made { kind: kind.name(), id: id.to_owned() });
        Ok(())
    }
}
