//! Owns what the commands that speak with an account share: the runtime, and the regions they were asked to look
//! in.

use std::future::Future;

use efa_gen::error::{Class, Error, Result};

use crate::aws::{Aws, is_region};

/// Runs what waits for AWS.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Class::Io, "could not start threads").with_source(error))?;
    let done = runtime.block_on(future);
    // After an interrupt there may be a download that nobody waits for any more.
    runtime.shutdown_background();
    done
}

/// The regions that were asked for, each once; the profile's or the environment's where none was.
pub async fn regions(asked: &[String], profile: Option<&str>) -> Result<Vec<Aws>> {
    if let Some(wrong) = asked.iter().find(|region| !is_region(region)) {
        return Err(Error::new(Class::Usage, format!("--region {wrong} is not the name of a region"))
            .hint("a region is written like us-east-1; `aws ec2 describe-regions` lists them"));
    }
    let first = Aws::connect(asked.first().map(String::as_str), profile).await?;
    let mut all: Vec<Aws> = Vec::new();
    for region in asked {
        if !all.iter().any(|aws| aws.region == *region) {
            all.push(first.in_region(region));
        }
    }
    Ok(if all.is_empty() { vec![first] } else { all })
}
