//! Owns the hashing: every digest that the signatures need, over one pass of the data. The caller's
//! thread reads ahead into a handful of buffers; each digest runs on a thread of its own.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sequoia_openpgp::crypto::hash::Context;
use sequoia_openpgp::packet::Signature;
use sequoia_openpgp::serialize::MarshalInto;
use sequoia_openpgp::types::HashAlgorithm;
use sha2::Digest as _;

use super::refusal::Refusal;
use super::request::Sha256;

/// Bytes in a buffer: large enough that handing it over costs nothing beside hashing it.
const CHUNK: usize = 256 * 1024;

/// Buffers that wait for a digest thread.
const QUEUE: usize = 4;

/// Digests beyond the content's own; a real file needs one, and each costs a thread.
const MOST_DIGESTS: usize = 8;

/// Which digests to compute. The first is always the content's own SHA-256.
pub(super) struct Plan {
    hashers: Vec<Hasher>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { hashers: vec![Hasher::Sha256(sha2::Sha256::new())] }
    }
}

impl Plan {
    /// Makes sure that this signature's digest will be computed; returns its place.
    pub(super) fn add(&mut self, signature: &Signature) -> Result<usize, Refusal> {
        let hasher = Hasher::new(signature)?;
        // Salted digests can't be shared: the salt is hashed before the data.
        let shared = self.hashers.iter().position(|other| match (other, &hasher) {
            (Hasher::Other(a), Hasher::Other(b)) => signature.salt().is_none() && a.algo() == b.algo(),
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        });
        if let Some(place) = shared {
            return Ok(place);
        }
        if self.hashers.len() > MOST_DIGESTS {
            return Err(Refusal::TooManySignatures);
        }
        self.hashers.push(hasher);
        Ok(self.hashers.len() - 1)
    }
}

/// One digest under way. The `sha2` crate serves what signatures use in practice: the same speed as
/// sequoia's own for SHA-256, a sixth faster for SHA-512.
#[derive(Clone)]
enum Hasher {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    /// A rarer algorithm, or a salted (version 6) signature.
    Other(Context),
}

impl Hasher {
    fn new(signature: &Signature) -> Result<Self, Refusal> {
        let algorithm = signature.hash_algo();
        Ok(match (signature.version(), algorithm) {
            (4, HashAlgorithm::SHA256) => Hasher::Sha256(sha2::Sha256::new()),
            (4, HashAlgorithm::SHA384) => Hasher::Sha384(sha2::Sha384::new()),
            (4, HashAlgorithm::SHA512) => Hasher::Sha512(sha2::Sha512::new()),
            (version, _) => {
                let unsupported = |_| Refusal::Unsupported(format!("the digest {algorithm}"));
                let mut context = algorithm.context().map_err(unsupported)?.for_signature(version);
                context.update(signature.salt().unwrap_or(&[]));
                Hasher::Other(context)
            }
        })
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha384(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
            Hasher::Other(context) => context.update(bytes),
        }
    }

    /// The digest that `signature` signs: the data, then the signature's own signed part.
    fn finish(mut self, signature: &Signature) -> sequoia_openpgp::Result<Vec<u8>> {
        if let Hasher::Other(mut context) = self {
            use sequoia_openpgp::crypto::hash::Hash;
            signature.hash(&mut context)?;
            return context.into_digest();
        }
        self.update(&trailer(signature)?);
        self.plain()
    }

    fn plain(self) -> sequoia_openpgp::Result<Vec<u8>> {
        match self {
            Hasher::Sha256(hasher) => Ok(hasher.finalize().to_vec()),
            Hasher::Sha384(hasher) => Ok(hasher.finalize().to_vec()),
            Hasher::Sha512(hasher) => Ok(hasher.finalize().to_vec()),
            Hasher::Other(context) => context.into_digest(),
        }
    }
}

/// What a version 4 signature hashes after the data (RFC 9580, 5.2.4): its fields up to the end of the
/// hashed subpackets, then 4, 255 and the length of that.
fn trailer(signature: &Signature) -> sequoia_openpgp::Result<Vec<u8>> {
    let subpackets = signature.hashed_area().to_vec()?;
    let kinds = [4, signature.typ().into(), signature.pk_algo().into(), signature.hash_algo().into()];
    let mut trailer = Vec::from(kinds);
    trailer.extend(u16::try_from(subpackets.len())?.to_be_bytes());
    trailer.extend(subpackets);
    let length = u32::try_from(trailer.len())?;
    trailer.extend([4, 255]);
    trailer.extend(length.to_be_bytes());
    Ok(trailer)
}

/// The digests of data that was read to its end.
pub(super) struct Hashed {
    hashers: Vec<Hasher>,
    /// The content's own digest.
    pub(super) sha256: Sha256,
    /// How many bytes there were.
    pub(super) length: u64,
    /// How the data begins.
    pub(super) head: Vec<u8>,
}

impl Hashed {
    /// The digest at this place of the plan, completed for this signature.
    pub(super) fn digest(&self, place: usize, signature: &Signature) -> Result<Vec<u8>, Refusal> {
        self.hashers[place].clone().finish(signature).map_err(|error| Refusal::Unsupported(error.to_string()))
    }
}

/// Reads `data` to its end and computes every digest of the plan.
pub(super) fn run(data: impl Read, plan: Plan) -> Result<Hashed, Refusal> {
    let (read, hashers) = thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for hasher in plan.hashers {
            let (sender, receiver) = sync_channel(QUEUE);
            senders.push(sender);
            threads.push(scope.spawn(move || consume(hasher, &receiver)));
        }
        let read = feed(data, senders);
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (read, joined.collect::<Vec<_>>())
    });
    let Intake { length, head } = read.map_err(Refusal::Read)?;
    let content = hashers[0].clone().plain().map_err(|error| Refusal::Unsupported(error.to_string()))?;
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

fn consume(mut hasher: Hasher, chunks: &Receiver<Chunk>) -> Hasher {
    for chunk in chunks {
        hasher.update(&chunk.bytes[..chunk.filled]);
    }
    hasher
}

/// Reads ahead and hands each chunk to every thread. Buffers go round: when a chunk has been queued, the
/// one that lies `QUEUE + 1` before it was let go by every thread, so its buffer is free again.
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
