//! Owns a stub of AWS on a local port: it answers as a test tells it to, and keeps what it was asked. Knows nothing
//! of what an account holds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::http::on_local_port;

/// Whether a call only asks whether it would be allowed.
pub fn is_dry(params: &Params) -> bool {
    params.get("DryRun").is_some_and(|dry| dry == "true")
}

/// What a call was given, by the names of the query protocol (`Filter.1.Name`), and `Region` from its signature. The calls
/// of Parameter Store have their JSON keys.
pub type Params = BTreeMap<String, String>;

/// Where AWS tells the id of a request.
const REQUEST: &str = "x-amzn-RequestId: req-1";

/// Status and body.
pub type Answer = (u16, String);

/// A running stub; it ends with the test process.
pub struct Stub {
    pub url: String,
    log: Arc<Mutex<Vec<(String, Params)>>>,
}

impl Stub {
    pub fn start(answer: impl Fn(&str, &Params) -> Answer + Send + Sync + 'static) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&log);
        let url = on_local_port(move |stream| drop(serve(stream, &shared, &answer)));
        Stub { url, log }
    }

    /// The calls of this action, in order.
    pub fn calls(&self, action: &str) -> Vec<Params> {
        let log = self.log.lock().expect("the log");
        log.iter().filter(|(name, _)| name == action).map(|(_, params)| params.clone()).collect()
    }

    /// The names of all calls, in order.
    pub fn actions(&self) -> Vec<String> {
        self.log.lock().expect("the log").iter().map(|(name, _)| name.clone()).collect()
    }

    /// Lets a command speak with this stub instead of AWS.
    pub fn set(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
    }
}

fn serve(
    stream: &TcpStream,
    log: &Mutex<Vec<(String, Params)>>,
    answer: &dyn Fn(&str, &Params) -> Answer,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut headers = BTreeMap::new();
    let mut line = String::new();
    loop {
        match reader.read_line(&mut line)? {
            // Whoever was killed before it had asked.
            0 => return Ok(()),
            1 | 2 => break,
            _ => {}
        }
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        line.clear();
    }
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let target = header("x-amz-target");
    let mut params = if target.is_empty() { form(&body) } else { flat(&body) };
    let region = header("authorization").split('/').nth(2).unwrap_or_default().to_owned();
    params.insert("Region".into(), region);
    let named = params.get("Action").cloned().unwrap_or_default();
    let action = target.split_once('.').map_or(named, |(_, action)| action.to_owned());
    log.lock().expect("the log").push((action.clone(), params.clone()));
    let (status, body) = answer(&action, &params);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} Test\r\nContent-Length: {}\r\n{REQUEST}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An `application/x-www-form-urlencoded` body.
fn form(body: &[u8]) -> Params {
    let text = String::from_utf8_lossy(body);
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (plain(name), plain(value)));
    text.split('&').filter_map(pair).collect()
}

fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&hex, 16).expect("two hexadecimal digits")
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The plain values of a JSON body.
fn flat(body: &[u8]) -> Params {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let pair = |(name, value): (&String, &serde_json::Value)| {
        (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    value.as_object().into_iter().flatten().map(pair).collect()
}

/// EC2's way to say no.
pub fn refuse(code: &str, message: &str) -> Answer {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    (400, format!("<Response><Errors>{error}</Errors></Response>"))
}

/// EC2's way to say yes.
pub fn done(action: &str, inner: &str) -> Answer {
    (200, format!("<{action}Response>{inner}</{action}Response>"))
}
