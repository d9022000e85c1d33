//! Owns reading what programs print, in bounded memory: lines, and short answers.

use std::io;
use std::process::ExitStatus;

use efa_gen::text::{ANSWER, LINE, QUOTED, size};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;

/// Sends every line that a program prints, until it closes the pipe or nobody listens. What is too long for a line is
/// dropped, and the line says so.
pub async fn each_line(pipe: impl AsyncRead + Unpin, send: mpsc::Sender<String>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = BoundedLine::default();
    loop {
        let piece = pipe.fill_buf().await.unwrap_or_default();
        let end = memchr::memchr(b'\n', piece);
        let (is_over, is_whole) = (piece.is_empty(), end.is_some());
        line.push(&piece[..end.unwrap_or(piece.len())]);
        let used = end.map_or(piece.len(), |end| end + 1);
        pipe.consume(used);
        let is_line = is_whole || (is_over && !line.is_empty());
        if (is_line && send.send(line.take()).await.is_err()) || is_over {
            return;
        }
    }
}

/// The beginning of a line, and how many bytes of it were dropped.
#[derive(Default)]
struct BoundedLine {
    bytes: Vec<u8>,
    dropped: u64,
}

impl BoundedLine {
    fn push(&mut self, piece: &[u8]) {
        let (kept, dropped) = piece.split_at(piece.len().min(LINE - self.bytes.len()));
        self.bytes.extend_from_slice(kept);
        self.dropped += dropped.len() as u64;
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The line as text; the next one begins.
    fn take(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let line = match self.dropped {
            0 => text.trim_end_matches('\r').to_owned(),
            dropped => {
                // The cut may have gone through a character.
                let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
                format!("{text} [cut: {dropped} more bytes in this line]")
            }
        };
        self.bytes.clear();
        self.dropped = 0;
        line
    }
}

/// How a program ended that was asked something.
pub struct ProgramAnswer {
    pub status: ExitStatus,
    /// All of its standard output.
    pub text: String,
    /// The last of its standard error.
    pub complaints: String,
}

/// What a program says to its end; it was started with pipes, and is killed when it is dropped.
///
/// Errors: it prints more than an answer may have.
pub async fn answer(mut child: Child) -> io::Result<ProgramAnswer> {
    let (output, complaints) = (child.stdout.take(), child.stderr.take());
    let (output, complaints) = tokio::try_join!(
        async {
            let mut bytes = Vec::new();
            if let Some(pipe) = output {
                pipe.take(ANSWER as u64 + 1).read_to_end(&mut bytes).await?;
            }
            if bytes.len() > ANSWER { Err(io::Error::other(too_long())) } else { Ok(bytes) }
        },
        async {
            let (mut last, mut piece) = (Vec::new(), [0; QUOTED]);
            if let Some(mut pipe) = complaints {
                loop {
                    let length = pipe.read(&mut piece).await?;
                    if length == 0 {
                        break;
                    }
                    last.extend_from_slice(&piece[..length]);
                    last.drain(..last.len().saturating_sub(QUOTED));
                }
            }
            Ok(last)
        }
    )?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(ProgramAnswer { status: child.wait().await?, text: text(&output), complaints: text(&complaints) })
}

/// What is said of a longer answer.
pub fn too_long() -> String {
    format!("the answer is longer than {}", size(ANSWER as u64))
}
