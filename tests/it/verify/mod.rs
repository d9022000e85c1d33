//! Signatures, digests and downloads.

mod bytes;
mod fetch;
mod own_tarball;
mod signatures;
