//! Owns HTTP: small files into memory, large ones into a file that a later run can continue.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use efa_gen::error::{Class, Error, Result};
use efa_gen::text::clip;
use efa_gen::url::secret_part;
use indicatif::{ProgressBar, ProgressStyle};
use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::partial_file::PartialFile;
use super::terminal;

/// Tries for one file, all faults together.
const TRIES: u32 = 5;

/// The wait before the second try; it doubles each time. There is one client, so no jitter.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Redirects for one request. Each must lead to https: what was asked for over TLS is not taken
/// without it, and a plain-http mirror has no business sending anybody to a third place. It counts as a failure of the
/// network (exit code 5): no signature was looked at yet.
const MOST_REDIRECTS: usize = 5;

/// A download slower than this, bytes a second, over [`PATIENCE`] is given up: a server that sends a byte now and then would hold
/// it for ever. They are the figures of the curl in every rendered script (`templates/script/lib/actions.sh`): what a guest
/// can download, efa-gen can.
const SLOWEST: u64 = 1024;

/// How long a download may be slower than [`SLOWEST`].
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes after which the disk is told to begin writing.
const FLUSH: u64 = 32 << 20;

/// What one try gives.
type Attempt<T> = std::result::Result<T, Fault>;

/// Why a try failed.
enum Fault {
    /// Another try may succeed.
    Passing(Error),
    /// It will be the same next time.
    Lasting(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Lasting(error)
    }
}

/// Whom TLS believes: Mozilla's list, or whatever the user says by SSL_CERT_FILE or SSL_CERT_DIR. What is downloaded is
/// judged by signature and digest either way.
fn roots() -> RootCerts {
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    if !named {
        return RootCerts::WebPki;
    }
    let own = rustls_native_certs::load_native_certs().certs;
    own.iter().map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned()).collect::<Vec<_>>().into()
}

/// Downloads files; keeps its connections.
pub struct Downloader {
    agent: Agent,
}

impl Downloader {
    pub fn new() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A connection that gives nothing for so long is dead; one that gives little is for `Paced` to judge.
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("efa-gen/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots()).build())
            .build();
        Downloader { agent: config.new_agent() }
    }

    /// A file of at most `limit` bytes, in memory.
    pub fn small(&self, url: &str, limit: u64) -> Result<Vec<u8>> {
        retried(|| {
            let response = self.get(url, None)?;
            let status = response.status().as_u16();
            if status != 200 {
                return Err(refused_by_server(status, url));
            }
            let mut bytes = Vec::new();
            let mut body = Paced::new(response.into_body().into_reader()).take(limit + 1);
            body.read_to_end(&mut bytes).map_err(|error| Fault::Passing(cut(url, error)))?;
            if bytes.len() as u64 > limit {
                return Err(Fault::Lasting(too_large(url, limit)));
            }
            Ok(bytes)
        })
    }

    /// A file of at most `limit` bytes, continued from what an earlier try or run left in `part`. Every piece that arrives is
    /// given away with the offset at which it stands in the file; a smaller offset than before means that it begins anew.
    pub fn large(
        &self,
        url: &str,
        part: &mut PartialFile,
        limit: u64,
        arrived: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bytes}/{total_bytes} {bar:40} {bytes_per_sec}, {eta} left") {
            bar.set_style(style);
        }
        let result = retried(|| self.large_once(url, part, limit, arrived, &bar));
        bar.finish_and_clear();
        result
    }

    fn large_once(
        &self,
        url: &str,
        part: &mut PartialFile,
        limit: u64,
        arrived: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
        bar: &ProgressBar,
    ) -> Attempt<()> {
        let resume = part.resume_point()?;
        let response = self.get(url, resume.as_ref().map(|point| (point.offset, point.etag.as_str())))?;
        let status = response.status().as_u16();
        let offset = match (status, &resume) {
            (200, _) => {
                part.restart(strong_etag(response.headers()))?;
                0
            }
            (206, Some(point)) if continues(response.headers(), point.offset, &point.etag) => point.offset,
            // The part on disk does not fit what the server has now: begin again.
            (206 | 416, Some(_)) => {
                part.restart(None)?;
                return Err(Fault::Passing(unusable(status, url)));
            }
            (206, None) => return Err(Fault::Lasting(unusable(status, url))),
            _ => return Err(refused_by_server(status, url)),
        };
        let announced = response.body().content_length().map(|length| offset.saturating_add(length));
        if announced.is_some_and(|total| total > limit) {
            return Err(Fault::Lasting(too_large(url, limit)));
        }
        bar.set_length(announced.unwrap_or(0));
        bar.set_position(offset);
        let took = |at: u64, bytes: &[u8]| {
            bar.set_position(at + bytes.len() as u64);
            arrived(at, bytes)
        };
        let total = copy(&mut Paced::new(response.into_body().into_reader()), part.file(), url, offset, limit, took)?;
        match announced {
            Some(announced) if announced != total => {
                Err(Fault::Passing(cut(url, format!("{total} of {announced} bytes arrived"))))
            }
            _ => Ok(()),
        }
    }

    /// Asks for `url`, or for what follows `offset` if the file is still the one of that entity tag.
    fn get(&self, url: &str, resume: Option<(u64, &str)>) -> Attempt<Response<Body>> {
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            // Compressed in transit, the bytes could not be counted.
            let mut request = self.agent.get(&url).header("Accept-Encoding", "identity");
            if let Some((offset, etag)) = resume {
                request = request.header("Range", format!("bytes={offset}-")).header("If-Range", etag);
            }
            let response = request.call().map_err(|error| transport(&url, error))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            url = redirected(&url, location.unwrap_or_default())?;
        }
        Err(Fault::Lasting(Error::new(Class::Io, format!("{url}: more than {MOST_REDIRECTS} redirects"))))
    }
}

/// Tries until it succeeds, the fault lasts, or the tries are used up.
fn retried<T>(mut once: impl FnMut() -> Attempt<T>) -> Result<T> {
    let mut wait = FIRST_WAIT;
    for attempt in 1.. {
        match once() {
            Ok(value) => return Ok(value),
            Err(Fault::Lasting(error)) => return Err(error),
            Err(Fault::Passing(error)) if attempt >= TRIES => {
                return Err(Error::new(
                    Class::Io,
                    format!("gave up after {TRIES} tries; the last: {}", with_cause(&error)),
                ));
            }
            Err(Fault::Passing(error)) => {
                let seconds = wait.as_secs_f32();
                terminal::message(&format!("note: {}; trying again in {seconds:.1} s", with_cause(&error)));
            }
        }
        thread::sleep(wait);
        wait *= 2;
    }
    Err(Error::new(Class::Bug, "the tries ran out"))
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Copies the body into the file from `offset`; what arrived stays there when the connection breaks.
fn copy(
    body: &mut impl Read,
    file: &mut File,
    url: &str,
    offset: u64,
    limit: u64,
    mut took: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Attempt<u64> {
    let failed =
        |error: io::Error| Fault::Lasting(Error::new(Class::Io, "could not write the download").with_source(error));
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    thread::scope(|scope| {
        // So that little is left to be forced to the disk at the end. A disk that is still at it is not told again.
        let (flush, wanted) = sync_channel::<()>(1);
        let flushed = file.try_clone().map_err(failed)?;
        // What can't be written now is an error at the end.
        let flusher = move || wanted.iter().for_each(|()| drop(flushed.sync_data()));
        thread::Builder::new().spawn_scoped(scope, flusher).map_err(failed)?;
        let mut total = offset;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => count,
                Err(error) => return Err(Fault::Passing(cut(url, error))),
            };
            let end = total + count as u64;
            if end > limit {
                return Err(Fault::Lasting(too_large(url, limit)));
            }
            file.write_all(&buffer[..count]).map_err(failed)?;
            took(total, &buffer[..count])?;
            if total / FLUSH != end / FLUSH {
                let _ = flush.try_send(());
            }
            total = end;
        }
    })
}

/// A body that must not be slower than [`SLOWEST`] over [`PATIENCE`].
struct Paced<R> {
    body: R,
    /// When the present stretch began, and what it has brought.
    since: Instant,
    bytes: u64,
}

impl<R> Paced<R> {
    fn new(body: R) -> Self {
        Paced { body, since: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.bytes = self.bytes.saturating_add(count as u64);
        if self.since.elapsed() < PATIENCE {
            return Ok(count);
        }
        // At the end there is nothing left to be slow.
        if count > 0 && self.bytes < SLOWEST * PATIENCE.as_secs() {
            let why = format!("slower than {SLOWEST} bytes a second over {} seconds", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        (self.since, self.bytes) = (Instant::now(), 0);
        Ok(count)
    }
}

/// Where a redirect leads; only https will do.
fn redirected(from: &str, location: &str) -> Attempt<String> {
    let (scheme, rest) = from.split_once("://").unwrap_or(("", from));
    let host = rest.split('/').next().unwrap_or(rest);
    let target = if let Some(path) = location.strip_prefix("//") {
        format!("{scheme}://{path}")
    } else if location.starts_with('/') {
        format!("{scheme}://{host}{location}")
    } else {
        location.to_owned()
    };
    if target.to_ascii_lowercase().starts_with("https://") {
        return Ok(target);
    }
    let message = format!("{from}: the server redirects to {:?}, which is not https", clip(location, 200));
    Err(Fault::Lasting(Error::new(Class::Io, message).hint("name the place where the files lie with --base-url")))
}

/// Whether a 206 answer begins at `offset` and runs to the end of the same file.
fn continues(headers: &HeaderMap, offset: u64, etag: &str) -> bool {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if header("etag").is_some_and(|now| now != etag) {
        return false;
    }
    let Some((range, total)) = header("content-range").and_then(|range| range.strip_prefix("bytes ")?.split_once('/'))
    else {
        return false;
    };
    let Some((first, last)) = range.split_once('-') else { return false };
    let to_the_end = match (last.parse::<u64>(), total.parse::<u64>()) {
        (Ok(last), Ok(total)) => last.checked_add(1) == Some(total),
        (Ok(_), Err(_)) => total == "*",
        _ => false,
    };
    first.parse() == Ok(offset) && to_the_end
}

/// An entity tag that names exact bytes; a weak one (`W/`) does not.
fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    headers.get("etag").and_then(|value| value.to_str().ok()).filter(|tag| tag.starts_with('"'))
}

fn refused_by_server(status: u16, url: &str) -> Fault {
    let error = Error::new(Class::Io, format!("{url}: the server answered with status {status}"));
    match status {
        408 | 429 | 500..=599 => Fault::Passing(error),
        403 | 404 | 410 => Fault::Lasting(
            error.hint("check --efa and --base-url: S3 answers 403 or 404 when there is no file of that name"),
        ),
        _ => Fault::Lasting(error),
    }
}

fn transport(url: &str, error: ureq::Error) -> Fault {
    use ureq::Error::{BadUri, Http, InvalidProxyUrl, Io, Rustls, Tls};
    let message = format!("could not reach {url}");
    match error {
        BadUri(_) | Http(_) | InvalidProxyUrl => Fault::Lasting(Error::new(Class::Usage, message).with_source(error)),
        // A certificate that is refused once will be refused again.
        Tls(_) | Rustls(_) => Fault::Lasting(untrusted(message).with_source(error)),
        Io(ref cause) if cause.kind() == io::ErrorKind::InvalidData => {
            Fault::Lasting(untrusted(message).with_source(error))
        }
        _ => Fault::Passing(Error::new(Class::Io, message).with_source(error)),
    }
}

fn untrusted(message: String) -> Error {
    Error::new(Class::Io, message).hint(
        "where a proxy replaces certificates, download the files with a tool that trusts it, and run `efa-gen verify`",
    )
}

fn cut(url: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Class::Io, format!("{url}: the connection broke off")).with_source(cause)
}

fn unusable(status: u16, url: &str) -> Error {
    Error::new(Class::Io, format!("{url}: the server's answer (status {status}) does not fit what was asked for"))
}

fn too_large(url: &str, limit: u64) -> Error {
    Error::new(Class::Io, format!("{url}: larger than {limit} bytes")).hint("this is not the file that belongs there")
}

/// Says so when nothing but the signature protects the download.
pub fn check_base_url(url: &str) -> Result<()> {
    if let Some(part) = secret_part(url) {
        return Err(Error::new(Class::Usage, format!("the base URL has {part}"))
            .hint("other users of this machine see it among its processes: download the files with a tool that reads .netrc, and run `efa-gen verify`"));
    }
    let lower = url.to_ascii_lowercase();
    if lower.starts_with("http://") {
        terminal::message("note: plain http: nothing but the signature protects this download");
    } else if !lower.starts_with("https://") {
        return Err(Error::new(Class::Usage, format!("base URL {url:?} begins with neither https:// nor http://")));
    }
    Ok(())
}
