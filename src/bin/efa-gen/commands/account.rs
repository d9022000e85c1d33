//! Owns what the commands that speak with an account share: the runtime, the regions they were asked to look in,
//! spans of time.

use std::future::Future;

use efa_gen::error::{Class, Error, Result};

use crate::build::publish;
use crate::ec2::Aws;

/// Runs what waits for AWS.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Class::Io, "could not start threads").because(error))?;
    runtime.block_on(future)
}

/// The regions that were asked for, each once; the profile's or the environment's where none was.
pub async fn regions(asked: &[String], profile: Option<&str>) -> Result<Vec<Aws>> {
    if let Some(wrong) = asked.iter().find(|region| !publish::is_region(region)) {
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

/// The seconds of `3h`, as this flag has it.
pub fn seconds(flag: &str, text: &str) -> Result<i64> {
    let parsed = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let size = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        // `parse` takes a sign, an age has none.
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse::<i64>().ok().filter(|_| digits)?.checked_mul(size)
    };
    parsed().ok_or_else(|| {
        Error::new(Class::Usage, format!("{flag} {text:?} is not a time"))
            .hint("write a number and s, m, h or d: 90m, 3h, 2d")
    })
}
