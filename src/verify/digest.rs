//! Owns the hashing: every digest that the signatures need, over one pass of the data. The caller's
//! thread reads ahead into a handful of buffers; each digest runs on a thread of its own.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sequoia_openpgp::crypto::hash::Context;
use sequoia_openpgp::packet::Signature;
use sequoia_openpgp::types::HashAlgorithm;

use super::refusal::Refusal;
use super::request::Sha256;

/// Bytes in a buffer: large enough that handing it over, and waking whoever waits, costs little.
const CHUNK: usize = 1024 * 1024;

/// Buffers that wait for a digest thread.
const QUEUE: usize = 4;

/// Digests beyond the content's own: a real file needs one at most, and each costs a thread.
const MOST_DIGESTS: usize = 8;

/// Which digests to compute. The first is always the content's own SHA-256.
pub(crate) struct DigestPlan {
    hashers: Vec<Context>,
}

impl DigestPlan {
    pub(crate) fn new() -> Result<Self, Refusal> {
        Ok(DigestPlan { hashers: vec![context(HashAlgorithm::SHA256, 4)?] })
    }

    /// Makes sure that this signature's digest will be computed; returns its place.
    pub(crate) fn add(&mut self, signature: &Signature) -> Result<usize, Refusal> {
        let algorithm = signature.hash_algo();
        // A salt (version 6) is hashed before the data, so such a digest is nobody else's.
        let shared = self.hashers.iter().position(|other| signature.salt().is_none() && other.algo() == algorithm);
        if let Some(place) = shared {
            return Ok(place);
        }
        if self.hashers.len() > MOST_DIGESTS {
            return Err(Refusal::TooManySignatures);
        }
        let mut hasher = context(algorithm, signature.version())?;
        hasher.update(signature.salt().unwrap_or(&[]));
        self.hashers.push(hasher);
        Ok(self.hashers.len() - 1)
    }
}

fn context(algorithm: HashAlgorithm, version: u8) -> Result<Context, Refusal> {
    let builder = algorithm.context().map_err(|_| Refusal::Unsupported(format!("the digest {algorithm}")))?;
    Ok(builder.for_signature(version))
}

/// The digests of data that was read to its end.
pub(crate) struct Hashed {
    hashers: Vec<Context>,
    /// The content's own digest.
    pub(crate) sha256: Sha256,
    /// How many bytes there were.
    pub(crate) length: u64,
    /// How the data begins.
    pub(crate) head: Vec<u8>,
}

impl Hashed {
    /// The digest at this place of the plan, ready for a signature's own signed part.
    pub(crate) fn context(&self, place: usize) -> Context {
        self.hashers[place].clone()
    }
}

/// Reads `data` to its end and computes every digest of the plan.
pub(crate) fn run(data: impl Read, plan: DigestPlan) -> Result<Hashed, Refusal> {
    let (read, hashers) = thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for hasher in plan.hashers {
            let (sender, receiver) = sync_channel(QUEUE);
            senders.push(sender);
            threads.push(thread::Builder::new().spawn_scoped(scope, move || consume(hasher, &receiver)));
        }
        // A thread that could not be started has its receiver dropped; nothing is read then.
        let threads = threads.into_iter().collect::<io::Result<Vec<_>>>();
        let (read, threads) = match threads {
            Ok(threads) => (feed(data, senders), threads),
            Err(error) => {
                drop(senders);
                (Err(error), Vec::new())
            }
        };
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (read, joined.collect::<Vec<_>>())
    });
    let Intake { length, head } = read.map_err(Refusal::Read)?;
    let content = hashers[0].clone().into_digest().map_err(|error| Refusal::Unsupported(error.to_string()))?;
    let mut sha256 = Sha256([0; 32]);
    sha256.0.copy_from_slice(&content);
    Ok(Hashed { hashers, sha256, length, head })
}

struct Intake {
    length: u64,
    head: Vec<u8>,
}

type Chunk = Arc<Buffer>;

struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

fn consume(mut hasher: Context, chunks: &Receiver<Chunk>) -> Context {
    for chunk in chunks {
        hasher.update(&chunk.bytes[..chunk.filled]);
    }
    hasher
}

/// Reads ahead and hands each chunk to every thread. Buffers go round: when a chunk has been queued, the
/// one that lies `QUEUE + 1` before it was let go by every thread, so its buffer is free again.
#[expect(clippy::needless_pass_by_value, reason = "the threads end when their senders are dropped, which is here")]
fn feed(mut data: impl Read, senders: Vec<SyncSender<Chunk>>) -> io::Result<Intake> {
    let fresh = || Arc::new(Buffer { bytes: vec![0; CHUNK], filled: 0 });
    let mut ring: Vec<Chunk> = Vec::new();
    let mut result = Intake { length: 0, head: Vec::new() };
    for turn in 0.. {
        let place = turn % (QUEUE + 2);
        if place == ring.len() {
            ring.push(fresh());
        }
        if Arc::get_mut(&mut ring[place]).is_none() {
            ring[place] = fresh();
        }
        let Some(buffer) = Arc::get_mut(&mut ring[place]) else { continue };
        buffer.filled = fill(&mut data, &mut buffer.bytes)?;
        if buffer.filled == 0 {
            break;
        }
        if turn == 0 {
            result.head = buffer.bytes[..buffer.filled.min(512)].to_vec();
        }
        result.length += buffer.filled as u64;
        for sender in &senders {
            // A thread that is gone has panicked; joining it reports that.
            let _ = sender.send(Arc::clone(&ring[place]));
        }
    }
    Ok(result)
}

/// Reads until the buffer is full or the data ends.
fn fill(data: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match data.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
