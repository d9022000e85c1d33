//! Owns what a build is while it runs, and what it comes to.

use efa_gen::catalog::Catalog;
use efa_gen::error::{Class, Error};
use efa_gen::plan::Plan;

use super::preflight::ResolvedBuild;
use super::publish::Copy;
use crate::aws::model::Image;
use crate::cli::cloud::{BuildArgs, BuildDriver};
use crate::image::record::BuildRecord;
use crate::run::context::RunContext;

/// One run: what it is to make, with what, and where it writes down how far it is.
pub struct Build<'a> {
    pub run: RunContext<'a>,
    pub catalog: &'a Catalog,
    pub plan: &'a Plan,
    pub script: &'a str,
    pub args: &'a BuildArgs,
    pub resolved: &'a ResolvedBuild,
    pub record: &'a mut BuildRecord,
    /// Whether the run began in another process.
    pub resumed: bool,
}

impl Build<'_> {
    /// Whether Packer makes the machine, which then is in no ledger.
    pub fn is_packers(&self) -> bool {
        self.args.driver == BuildDriver::Packer
    }
}

/// What a build came to.
#[derive(Debug, Clone)]
pub struct Built {
    pub image: Image,
    pub copies: Vec<Copy>,
}

pub fn failed(image: &Image) -> Error {
    Error::new(Class::Cloud, format!("image {} has failed: {}", image.id, image.reason))
        .hint("sweep the run and build again; a KMS key that can't be used is the usual reason")
}
