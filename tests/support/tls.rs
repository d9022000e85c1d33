//! Owns a proxy on a local port that takes CONNECT and ends TLS itself: whatever name it is asked for, a stub of AWS answers
//! behind it. Nothing leaves the machine.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::http::on_local_port;

/// The file that makes its TLS believed.
pub const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/certificate.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/key.pem");

/// A running proxy; it ends with the test process.
pub struct Proxy {
    /// `127.0.0.1:port`.
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Lets in whoever gives this name and password (`name:password`), or anybody.
    pub fn start(stub: &str, password: Option<&str>) -> Self {
        let certificate = CertificateDer::from_pem_file(CERTIFICATE).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(KEY).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(vec![certificate], key);
        let config = Arc::new(config.expect("a certificate that fits its key"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, stub) = (Arc::clone(&asked), stub.trim_start_matches("http://").to_owned());
        let password = password.map(|password| {
            use base64::Engine as _;
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(password))
        });
        let url = on_local_port(move |stream| drop(serve(stream, &stub, password.as_deref(), &config, &log)));
        Proxy { address: url.trim_start_matches("http://").to_owned(), asked }
    }

    /// What it was asked for: the names of CONNECT, or the first line of anything else.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("the log").clone()
    }

    /// Sends a command's calls through it.
    pub fn set(&self, command: &mut Command, user: &str) {
        command.env("HTTPS_PROXY", format!("http://{user}{}", self.address)).env("AWS_CA_BUNDLE", CERTIFICATE);
        command.env("AWS_EC2_METADATA_DISABLED", "true");
    }
}

fn serve(
    mut client: &TcpStream,
    stub: &str,
    password: Option<&str>,
    config: &Arc<ServerConfig>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let first = head.lines().next().unwrap_or_default();
    let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    log.lock().expect("the log").push(target.unwrap_or(first).to_owned());
    let given =
        head.lines().find_map(|line| line.to_lowercase().starts_with("proxy-authorization: ").then(|| &line[21..]));
    if password.is_some() && given != password {
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n");
    }
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let connection = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut tls = rustls::StreamOwned::new(connection, client.try_clone()?);
    let mut plain = TcpStream::connect(stub)?;
    // One direction after the other; neither waits for long.
    client.set_read_timeout(Some(Duration::from_millis(5)))?;
    plain.set_read_timeout(Some(Duration::from_millis(5)))?;
    loop {
        if copy(&mut tls, &mut plain)? || copy(&mut plain, &mut tls)? {
            return Ok(());
        }
    }
}

/// Copies what is there; whether the one that is read has ended.
fn copy(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<bool> {
    let mut buffer = [0; 1 << 14];
    match from.read(&mut buffer) {
        Ok(0) => Ok(true),
        Ok(count) => to.write_all(&buffer[..count]).and_then(|()| to.flush()).map(|()| false),
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => Ok(false),
        Err(error) => Err(error),
    }
}
