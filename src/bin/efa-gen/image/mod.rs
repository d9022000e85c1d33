//! Owns building an image: the preflight, the builder, the install, the image, its gate, its publication.

pub mod build;
pub mod builder;
pub mod cost;
pub mod create;
pub mod gate;
pub mod install;
pub mod manifest;
mod manifest_file;
pub mod native;
pub mod packer;
pub mod preflight;
pub mod publish;
pub mod record;
