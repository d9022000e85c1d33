//! Owns a real HTTP/1.1 server on a local port, which answers as a test tells it to: well or badly.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    headers: Vec<(String, String)>,
    /// How many requests for this path came before.
    pub nth: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// An answer, right or wrong.
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The length to announce, if not the body's.
    announced: Option<usize>,
    /// Close the connection after so many bytes of the body.
    cut: Option<usize>,
    /// Send so many bytes of the body at a time, and rest in between.
    drip: Option<(usize, Duration)>,
}

impl Reply {
    pub fn new(status: u16, body: &[u8]) -> Self {
        Reply { status, headers: Vec::new(), body: body.to_vec(), announced: None, cut: None, drip: None }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn announce(mut self, length: usize) -> Self {
        self.announced = Some(length);
        self
    }

    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    pub fn drip(mut self, bytes: usize, every: Duration) -> Self {
        self.drip = Some((bytes, every));
        self
    }

    /// What a good server answers: the whole file, or the rest of it if the entity tag still fits.
    pub fn file(asked: &Asked, body: &[u8], etag: &str) -> Self {
        let start =
            asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match start {
            Some(start) if asked.header("if-range") == Some(etag) => {
                if start >= body.len() {
                    return Reply::new(416, b"").header("Content-Range", &format!("bytes */{}", body.len()));
                }
                let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
                Reply::new(206, &body[start..]).header("Content-Range", &range).header("ETag", etag)
            }
            _ => Reply::new(200, body).header("ETag", etag),
        }
    }
}

/// Gives each connection to a local port a thread of its own; returns the port's URL.
pub fn on_local_port(serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(&stream));
        }
    });
    url
}

/// A running server; it ends with the test process.
pub struct Server {
    pub url: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Answers every request with what `answer` says.
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&log);
        // A client that goes away early is part of some tests.
        let url = on_local_port(move |stream| drop(serve(stream, &shared, &answer)));
        Server { url, log }
    }

    /// The requests for a path that ends so, in order.
    pub fn asked(&self, end: &str) -> Vec<Asked> {
        self.log.lock().expect("the log").iter().filter(|asked| asked.path.ends_with(end)).cloned().collect()
    }
}

fn serve(stream: &TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Reply) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(()) };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let asked = {
        let mut log = log.lock().expect("the log");
        let nth = log.iter().filter(|earlier| earlier.path == path).count();
        log.push(Asked { path, headers, nth });
        log[log.len() - 1].clone()
    };
    let reply = answer(&asked);
    let length = reply.announced.unwrap_or(reply.body.len());
    let mut head = format!("HTTP/1.1 {} Test\r\nContent-Length: {length}\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    let (piece, rest) = reply.drip.unwrap_or((body.len().max(1), Duration::ZERO));
    for piece in body.chunks(piece) {
        stream.write_all(piece)?;
        stream.flush()?;
        thread::sleep(rest);
    }
    Ok(())
}
