//! Owns `efa-gen verify`.

use efa_gen::error::{Class, Error, Result};

use crate::cli::VerifyArgs;

pub fn run(_args: &VerifyArgs) -> Result<()> {
    Err(Error::new(Class::Bug, "not there yet"))
}
