//! Owns the signature check of a file while it is downloaded: what arrives is hashed at once, what an earlier run left is
//! read from the disk first, and a file that begins anew is checked anew.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use efa_gen::error::{Class, Error, Result};
use efa_gen::verify::{self, Refusal, Verified, VerifyRequest};

/// Pieces that wait for the check.
const QUEUE: usize = 16;

/// Bytes that are read from the disk at once.
const PIECE: usize = 128 << 10;

/// The check of a file that grows.
pub struct StreamedCheck<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    request: VerifyRequest<'env>,
    /// What is on the disk.
    file: &'env File,
    running: Option<RunningCheck<'scope>>,
}

/// A check on a thread of its own.
struct RunningCheck<'scope> {
    pieces: SyncSender<Vec<u8>>,
    verdict: ScopedJoinHandle<'scope, std::result::Result<Verified, Refusal>>,
    /// Bytes that it was given.
    length: u64,
}

impl<'scope, 'env> StreamedCheck<'scope, 'env> {
    /// A check that has seen nothing of the file.
    pub fn new(scope: &'scope Scope<'scope, 'env>, request: VerifyRequest<'env>, file: &'env File) -> Self {
        StreamedCheck { scope, request, file, running: None }
    }

    /// The next piece of the file, and where it stands there.
    pub fn take(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut running = self.reach(at)?;
        running.give(bytes);
        self.running = Some(running);
        Ok(())
    }

    /// The verdict on the whole file.
    pub fn finish(mut self) -> Result<Verified> {
        let length = self.file.metadata().map_err(cannot_read)?.len();
        let RunningCheck { pieces, verdict, .. } = self.reach(length)?;
        // The end of the data.
        drop(pieces);
        Ok(verdict.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
    }

    /// The check that was given the file up to `offset` and nothing behind it: the running one, or a new one that is given
    /// what is on the disk.
    fn reach(&mut self, offset: u64) -> Result<RunningCheck<'scope>> {
        match self.running.take() {
            Some(running) if running.length == offset => return Ok(running),
            // The verdict on a file that is no more is nobody's concern.
            other => drop(other),
        }
        let mut running = self.begin()?;
        let mut buffer = vec![0; PIECE];
        while running.length < offset {
            let wanted = buffer.len().min(usize::try_from(offset - running.length).unwrap_or(usize::MAX));
            match self.file.read_at(&mut buffer[..wanted], running.length) {
                Ok(0) => return Err(cannot_read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => running.give(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_read(error)),
            }
        }
        Ok(running)
    }

    fn begin(&self) -> Result<RunningCheck<'scope>> {
        let (pieces, arriving) = sync_channel(QUEUE);
        let request = self.request;
        let check = move || verify::detached(Pieces { arriving, piece: Vec::new(), read: 0 }, &request);
        let verdict = Builder::new().spawn_scoped(self.scope, check);
        let verdict = verdict.map_err(|error| Error::new(Class::Io, "could not start a thread").with_source(error))?;
        Ok(RunningCheck { pieces, verdict, length: 0 })
    }
}

impl RunningCheck<'_> {
    fn give(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        // A check that has ended has its verdict already.
        let _ = self.pieces.send(bytes.to_vec());
    }
}

fn cannot_read(error: io::Error) -> Error {
    Error::new(Class::Io, "could not read the download").with_source(error)
}

/// What arrives, read as one file.
struct Pieces {
    arriving: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    read: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            let Ok(piece) = self.arriving.recv() else { return Ok(0) };
            (self.piece, self.read) = (piece, 0);
        }
        let count = (&self.piece[self.read..]).read(buffer)?;
        self.read += count;
        Ok(count)
    }
}
