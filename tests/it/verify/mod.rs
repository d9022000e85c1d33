//! Signatures, digests and downloads.

mod bytes;
mod efa_digest;
mod fetch;
mod own_tarball;
mod package_keys;
mod signatures;
mod version;
