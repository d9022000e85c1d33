//! Owns how AWS is reached, and as whom: proxy, certificates, region, profile.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::{self, ProfileFileCredentialsProvider, ProfileSet};
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Builder, Connector, tls};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::os_shim_internal::{Env, Fs};

use super::error::ApiError;

type Answer<T> = Result<T, ApiError>;

/// Enough for AWS's own throttling to pass; the waits between attempts grow to twenty seconds.
const ATTEMPTS: u32 = 8;

/// The user's own credentials, and the one HTTP client for whatever is asked of AWS, credentials included. Without a region the
/// environment's or the profile's is taken.
///
/// Errors: no region anywhere; a profile that can't be read, or that asks for the code of an MFA device; no certificates.
pub(super) async fn log_in(region: Option<&str>, named: Option<&str>) -> Answer<SdkConfig> {
    let profiles = profiles(named).await?;
    if named.is_some() || std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        refuse_mfa(&profiles)?;
    }
    let http = http_client(certificates(&profiles)?);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(10))
                .operation_attempt_timeout(Duration::from_secs(60))
                .build(),
        );
    // The region comes before the credentials: a role is assumed in one.
    let mut region = region.map(|region| Region::new(region.to_owned()));
    if region.is_none() {
        region = EnvironmentVariableRegionProvider::new().region().await;
    }
    let region = region.or_else(|| Some(Region::new(profiles.get("region")?.to_owned())));
    if let Some(region) = &region {
        loader = loader.region(region.clone());
    }
    if let Some(name) = named {
        // A profile that is named wins over the environment, as with the AWS CLI.
        let provider = ProviderConfig::without_region().with_http_client(http).with_region(region);
        let credentials = ProfileFileCredentialsProvider::builder().configure(&provider).profile_name(name).build();
        loader = loader.profile_name(name).credentials_provider(credentials);
    }
    let config = loader.load().await;
    match config.region() {
        Some(_) => Ok(config),
        None => Err(refused("NoRegion", "no region is set".to_owned())),
    }
}

/// The profiles of this machine; the one that is meant is selected.
async fn profiles(named: Option<&str>) -> Answer<ProfileSet> {
    let named = named.map(|name| Cow::Owned(name.to_owned()));
    let read = profile::load(&Fs::real(), &Env::real(), &Default::default(), named).await;
    read.map_err(|error| refused("BadProfile", format!("the profiles of AWS can't be read: {error}")))
}

/// The SDK assumes a role without the code of an MFA device, and AWS's refusal does not say that it is missing.
fn refuse_mfa(profiles: &ProfileSet) -> Answer<()> {
    let mut name = profiles.selected_profile();
    let mut seen = Vec::new();
    while let Some(profile) = profiles.get_profile(name) {
        if let (Some(device), Some(role)) = (profile.get("mfa_serial"), profile.get("role_arn")) {
            let what =
                format!("profile {name} takes the role {role} with a code of the MFA device {device} (mfa_serial)");
            return Err(refused("NeedsMfaCode", what));
        }
        seen.push(name);
        match profile.get("source_profile") {
            Some(source) if !seen.contains(&source) => name = source,
            _ => break,
        }
    }
    Ok(())
}

/// Whom TLS believes: the certificates of AWS_CA_BUNDLE or of the profile's `ca_bundle`, as with the AWS CLI; else those of the
/// machine, or of SSL_CERT_FILE.
fn certificates(profiles: &ProfileSet) -> Answer<tls::TlsContext> {
    let named = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let builder = tls::TlsContext::builder();
    let builder = match named.or_else(|| profiles.get("ca_bundle").map(PathBuf::from)) {
        None => builder,
        Some(path) => builder.with_trust_store(tls::TrustStore::empty().with_pem_certificate(bundle(&path)?)),
    };
    builder.build().map_err(|error| refused("BadCertificates", error.to_string()))
}

/// A file with certificates, all of which can be used.
fn bundle(path: &Path) -> Answer<Vec<u8>> {
    let bad = |why: String| refused("BadCertificates", format!("AWS_CA_BUNDLE {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let found = rustls_native_certs::load_certs_from_paths(Some(path), None);
    if let Some(error) = found.errors.first() {
        return Err(bad(error.to_string()));
    }
    if found.certs.is_empty() {
        return Err(bad("it has no certificate in PEM form".to_owned()));
    }
    let mut store = rustls::RootCertStore::empty();
    found.certs.into_iter().try_for_each(|one| store.add(one)).map_err(|error| bad(error.to_string()))?;
    Ok(bytes)
}

/// Goes by HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY. What a proxy asks for, name and password, is in its URL.
fn http_client(trust: tls::TlsContext) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        connector.tls_provider(ring).tls_context(trust.clone()).build()
    })
}

fn refused(code: &str, message: String) -> ApiError {
    ApiError { call: "Connect", code: code.to_owned(), message, request_id: None }
}
