//! Owns the services of a region, the account, and what the SDK's answers and errors become: the types of `model`, and `ApiError`.

use aws_config::{Region, SdkConfig};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use aws_sdk_ec2::operation::run_instances::RunInstancesError;
use aws_sdk_ec2::types as sdk;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority};

use super::action::InTable;
use super::error::ApiError;
use super::login::log_in;
use super::model::{Identity, Tags};

/// What a call gives.
pub type Answer<T> = std::result::Result<T, ApiError>;

/// The services of one region.
#[derive(Debug, Clone)]
pub struct Aws {
    config: SdkConfig,
    pub(super) ec2: aws_sdk_ec2::Client,
    pub(super) ssm: aws_sdk_ssm::Client,
    /// The region that it speaks with.
    pub region: String,
}

impl Aws {
    /// The user's own credentials, profile and proxy. Without a region the environment's or the profile's is taken.
    ///
    /// Errors: no region anywhere; a profile or a file with certificates that can't be used.
    pub async fn connect(region: Option<&str>, profile: Option<&str>) -> Answer<Self> {
        let config = log_in(region, profile).await?;
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        Ok(Aws::of(&config, region))
    }

    /// The same credentials in another region.
    pub fn in_region(&self, region: &str) -> Self {
        Aws::of(&self.config, region.to_owned())
    }

    fn of(config: &SdkConfig, region: String) -> Self {
        let config = config.to_builder().region(Region::new(region.clone())).build();
        let ec2 = aws_sdk_ec2::config::Builder::from(&config).retry_classifier(NoRoom).interceptor(InTable).build();
        let ssm = aws_sdk_ssm::config::Builder::from(&config).interceptor(InTable).build();
        let (ec2, ssm) = (aws_sdk_ec2::Client::from_conf(ec2), aws_sdk_ssm::Client::from_conf(ssm));
        Aws { ec2, ssm, config, region }
    }

    pub async fn identity(&self) -> Answer<Identity> {
        let sts = aws_sdk_sts::config::Builder::from(&self.config).interceptor(InTable).build();
        let answer = aws_sdk_sts::Client::from_conf(sts)
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| failed("GetCallerIdentity", &error))?;
        Ok(Identity { account: text(answer.account), arn: text(answer.arn) })
    }

    /// A quota's value; the code is Service Quotas' own (`L-1216C47A`).
    pub async fn quota(&self, code: &str) -> Answer<Option<f64>> {
        let quotas = aws_sdk_servicequotas::config::Builder::from(&self.config).interceptor(InTable).build();
        let call = aws_sdk_servicequotas::Client::from_conf(quotas).get_service_quota();
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

/// What the SDK's error says, once: AWS's own code and words, or why AWS was never reached.
pub(super) fn failed<E, R>(call: &'static str, error: &SdkError<E, R>) -> ApiError
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
        let text = error.to_string();
        if !words.iter().any(|word| word.contains(&text)) {
            words.push(text);
        }
        cause = error.source();
    }
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}

pub(super) fn waiting(call: &'static str, on: &str, error: &dyn std::error::Error) -> ApiError {
    let text = causes(error);
    match text.is_empty() {
        true => ours(call, "TimedOut", format!("waiting for {on}: {error}")),
        false => ours(call, "TimedOut", format!("waiting for {on}: {error}: {text}")),
    }
}

pub(super) fn ours(call: &'static str, code: &str, message: String) -> ApiError {
    ApiError { call, code: code.to_owned(), message, request_id: None }
}

pub(super) fn text(value: Option<String>) -> String {
    value.unwrap_or_default()
}

pub(super) fn time(value: Option<aws_sdk_ec2::primitives::DateTime>) -> String {
    let text = value.and_then(|time| time.fmt(aws_sdk_ec2::primitives::DateTimeFormat::DateTime).ok());
    text.unwrap_or_default()
}

pub(super) fn tags(tags: Option<Vec<sdk::Tag>>) -> Tags {
    tags.unwrap_or_default().into_iter().map(|tag| (text(tag.key), text(tag.value))).collect()
}

pub(super) fn sdk_tags(tags: &Tags) -> Vec<sdk::Tag> {
    tags.iter().map(|(key, value)| sdk::Tag::builder().key(key).value(value).build()).collect()
}

pub(super) fn tagged(kind: sdk::ResourceType, tags: &Tags) -> sdk::TagSpecification {
    sdk::TagSpecification::builder().resource_type(kind).set_tags(Some(sdk_tags(tags))).build()
}

pub(super) fn sdk_filters(filters: &[(&str, &str)]) -> Option<Vec<sdk::Filter>> {
    let filter = |(name, value): &(&str, &str)| sdk::Filter::builder().name(*name).values(*value).build();
    Some(filters.iter().map(filter).collect())
}

/// Whether a name has the form of a region's: `us-east-1`, `us-gov-west-1`.
pub fn is_region(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let Some((number, words)) = parts.split_last() else { return false };
    let letters = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    words.len() >= 2
        && words.iter().all(letters)
        && number.len() == 1
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Every item of every page of a listing; the calls of the SDK have no type in common.
macro_rules! all_pages {
    ($call:literal, $request:expr) => {{
        let items = $request.into_paginator().items().send();
        let items = items.collect::<std::result::Result<Vec<_>, _>>().await;
        items.map_err(|error| failed($call, &error))
    }};
}
pub(super) use all_pages;
