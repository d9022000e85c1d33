//! Owns what can be said of the flags that publish an image before anything is made. Only `check_regions` asks AWS.

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan, tz::TimeZone};

use crate::aws::model::Image;
use crate::aws::{Aws, is_region};
use crate::cli::cloud::PublishArgs;
use crate::cli::time::instant;
use crate::preflight::problem::Problem;
use crate::run::tags;

/// Characters of an AMI's name besides letters and digits (AWS EC2 API Reference, CreateImage).
const NAME_MARKS: &str = "()[] ./-'@_";

/// Every wrong flag. `encrypted` says whether the image's snapshots will be, `kms_key` with which key of the user's own.
pub fn check(
    args: &PublishArgs,
    encrypted: bool,
    kms_key: Option<&str>,
    own_region: &str,
    now: Timestamp,
) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(args.name.as_deref().and_then(name));
    copies(args, own_region, &mut found);
    keys(args, kms_key, own_region, &mut found);
    found.extend(args.share.iter().filter(|who| !is_sharee(who)).map(|who| {
        Problem::usage(
            format!("--share {who} is neither an account nor an organisation"),
            "an account is twelve digits; an organisation arn:aws:organizations::111122223333:organization/o-abcdefghij; \
             a unit arn:aws:organizations::111122223333:ou/o-abcdefghij/ou-ab12-34567890",
        )
    }));
    if !args.share.is_empty() {
        found.extend(unshareable(args, encrypted, kms_key));
    }
    found.extend(args.deprecate_at.as_deref().and_then(|text| deprecation(text, now)));
    found.extend(args.ssm_parameter.as_deref().and_then(parameter));
    found
}

/// What the regions of the copies say: each can be reached, and has no other image of this name. `run` is the run that goes
/// on, whose own copies may be there.
pub async fn check_regions(aws: &Aws, args: &PublishArgs, name: &str, run: Option<&str>) -> Vec<Problem> {
    let mut found = Vec::new();
    for region in args.copy_to.iter().filter(|region| is_region(region)) {
        match aws.in_region(region).images(&["self"], &[("name", name)]).await {
            Ok(images) => {
                let own = |image: &&Image| run.is_some() && image.tags.get(tags::RUN).map(String::as_str) == run;
                let others = images.iter().filter(|image| !own(image));
                found.extend(others.map(|image| {
                    let what = format!("the name {name} is taken in {region} by {}", image.id);
                    Problem::new(what, "choose another --name, or remove that image: efa-gen image rm")
                }));
            }
            Err(error) => found.push(error.context(&format!("--copy-to {region}")).into()),
        }
    }
    found
}

fn name(name: &str) -> Option<Problem> {
    let strange = name.chars().find(|c| !(c.is_ascii_alphanumeric() || NAME_MARKS.contains(*c)));
    let length = name.chars().count();
    if !(3..=128).contains(&length) {
        return Some(Problem::usage(format!("--name has {length} characters: {name:?}"), "an AMI's name has 3 to 128"));
    }
    let strange = strange?;
    Some(Problem::usage(
        format!("--name {name:?} has a character that EC2 does not take: {strange:?}"),
        format!("letters, digits and {NAME_MARKS}"),
    ))
}

/// Regions of different partitions share neither accounts nor copies.
fn partition(region: &str) -> &str {
    let apart = ["cn-", "us-gov-", "us-iso-", "us-isob-", "us-isof-", "eu-isoe-", "eusc-"];
    apart.into_iter().find(|prefix| region.starts_with(prefix)).unwrap_or("aws")
}

fn copies(args: &PublishArgs, own_region: &str, found: &mut Vec<Problem>) {
    let mut seen = BTreeSet::new();
    for region in &args.copy_to {
        if !is_region(region) {
            let what = format!("--copy-to {region} is not the name of a region");
            found.push(Problem::usage(what, "a region is written like us-west-2"));
        } else if region == own_region {
            let what = format!("--copy-to {region} is the region that the image is built in");
            found.push(Problem::usage(what, "leave it out: the image is there anyway"));
        } else if partition(region) != partition(own_region) {
            let what =
                format!("no image can be copied from {own_region} to {region}: they are of different partitions");
            found.push(Problem::new(what, "build it there, with an account of that partition"));
        }
        if !seen.insert(region) {
            found.push(Problem::usage(format!("--copy-to {region} is given twice"), "once is enough"));
        }
    }
}

/// The KMS keys: each belongs to one region.
fn keys(args: &PublishArgs, kms_key: Option<&str>, own_region: &str, found: &mut Vec<Problem>) {
    found.extend(kms_key.and_then(|key| wrong_key("--kms-key", key, own_region)));
    let mut seen = BTreeSet::new();
    for pair in &args.copy_kms_key {
        let flag = format!("--copy-kms-key {pair}");
        let Some((region, key)) = pair.split_once('=') else {
            found.push(Problem::usage(format!("{flag} has no `=`"), "write it like us-west-2=alias/images"));
            continue;
        };
        if !args.copy_to.iter().any(|copy| copy == region) {
            let what = format!("{flag}: there is no copy to {region:?}");
            found.push(Problem::usage(what, format!("add --copy-to {region}, or leave the key out")));
        }
        if !seen.insert(region) {
            found.push(Problem::usage(format!("{flag}: {region} has a key already"), "a copy has one key"));
        }
        found.extend(wrong_key(&flag, key, region));
    }
    if kms_key.is_none() {
        return;
    }
    for region in args.copy_to.iter().filter(|region| is_region(region) && !seen.contains(region.as_str())) {
        let what = format!("the copy to {region} has no key: a KMS key does not leave its region");
        let hint = format!("add --copy-kms-key {region}=KEY; without it the copy would get the account's default key");
        found.push(Problem::new(what, hint));
    }
}

/// What is wrong with a key's name. A key's ARN says its region.
fn wrong_key(flag: &str, key: &str, region: &str) -> Option<Problem> {
    let hint = "a key is written as its id, as alias/NAME, or as the ARN of either";
    let id = |id: &str| id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || b"-mr".contains(&byte));
    let alias = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "/_-".contains(c));
    let plain = |key: &str| key.strip_prefix("alias/").map_or_else(|| id(key), alias);
    let Some(arn) = key.strip_prefix("arn:") else {
        return (!plain(key)).then(|| Problem::usage(format!("{flag}: {key:?} is not the name of a KMS key"), hint));
    };
    match arn.splitn(5, ':').collect::<Vec<_>>()[..] {
        [partition, "kms", place, account, name]
            if partition.starts_with("aws") && is_account(account) && name.strip_prefix("key/").is_some_and(id)
                || name.starts_with("alias/") && plain(name) =>
        {
            let what = || format!("{flag}: this key is of {place}, and a KMS key does not leave its region");
            (place != region).then(|| Problem::new(what(), format!("name a key of {region}")))
        }
        _ => Some(Problem::usage(format!("{flag}: {key:?} is not the ARN of a KMS key"), hint)),
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An account, or the ARN of an organisation or of a unit (AWS Organizations API Reference, patterns of Arn).
fn is_sharee(who: &str) -> bool {
    let Some(arn) = who.strip_prefix("arn:aws") else { return is_account(who) };
    let Some((partition, rest)) = arn.split_once(":organizations::") else { return false };
    let Some((account, path)) = rest.split_once(':') else { return false };
    let word = |text: &str, least: usize| {
        text.len() >= least && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let organisation = |text: &str| text.strip_prefix("o-").is_some_and(|id| word(id, 10) && id.len() <= 32);
    let unit = |text: &str| {
        let parts = text.strip_prefix("ou-").and_then(|ids| ids.split_once('-'));
        parts.is_some_and(|(root, id)| word(root, 4) && root.len() <= 32 && word(id, 8) && id.len() <= 32)
    };
    let good = match path.split('/').collect::<Vec<_>>()[..] {
        ["organization", id] => organisation(id),
        ["ou", id, below] => organisation(id) && unit(below),
        _ => false,
    };
    good && is_account(account) && ["", "-cn", "-us-gov"].contains(&partition)
}

/// The account's default key can't be shared, so neither can what it encrypts.
fn unshareable(args: &PublishArgs, encrypted: bool, kms_key: Option<&str>) -> Option<Problem> {
    let default = |key: &str| key.ends_with("alias/aws/ebs");
    let mut own = args.copy_kms_key.iter().filter_map(|pair| pair.split_once('=')).map(|(_, key)| key);
    if !(encrypted && kms_key.is_none_or(default) || own.any(default)) {
        return None;
    }
    let what = "--share: an image that is encrypted with the account's default key can't be shared";
    Some(Problem::new(
        what,
        "give --kms-key (and --copy-kms-key for each copy) with a key of your own, or --no-encrypt",
    ))
}

fn deprecation(text: &str, now: Timestamp) -> Option<Problem> {
    let hint = "write it like 2027-11-01T00:00:00Z, or 2027-11-01";
    let Some(at) = instant(text).ok() else {
        return Some(Problem::usage(format!("--deprecate-at {text:?} is not a time"), hint));
    };
    if at <= now {
        return Some(Problem::usage(format!("--deprecate-at {text} has passed"), "it must lie in the future"));
    }
    // EC2's limit (user guide, "Deprecate an Amazon EC2 AMI").
    let last = now.to_zoned(TimeZone::UTC).checked_add(10.years()).ok()?.timestamp();
    (at > last).then(|| {
        Problem::usage(format!("--deprecate-at {text} is too far off"), "EC2 takes ten years from now at most")
    })
}

/// Parameter Store's rules (AWS Systems Manager API Reference, PutParameter).
fn parameter(name: &str) -> Option<Problem> {
    let wrong = |why: &str| {
        let hint =
            "a parameter is named like /images/efa/ubuntu: letters, digits, `_`, `.`, `-`, and `/` between its parts";
        Some(Problem::usage(format!("--ssm-parameter {name:?}: {why}"), hint))
    };
    let parts: Vec<&str> = name.strip_prefix('/').unwrap_or(name).split('/').collect();
    let first = parts.first().map(|part| part.to_ascii_lowercase()).unwrap_or_default();
    if !(name.starts_with('/') || name.starts_with(|c: char| c.is_ascii_alphabetic())) {
        wrong("it begins neither with `/` nor with a letter")
    } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-/".contains(c)) {
        wrong("it has a character that Parameter Store does not take")
    } else if parts.iter().any(|part| part.is_empty()) {
        wrong("a part of it is empty")
    } else if parts.len() > 1 && !name.starts_with('/') {
        wrong("a name with parts begins with `/`")
    } else if first.starts_with("aws") || first.starts_with("ssm") {
        wrong("names that begin with `aws` or `ssm` are AWS's own")
    } else if parts.len() > 15 || name.len() > 900 {
        wrong("it is too long")
    } else {
        None
    }
}
