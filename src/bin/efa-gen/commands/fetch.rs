//! Owns `efa-gen fetch`.

use efa_gen::error::{Class, Error, Result};

use crate::cli::FetchArgs;

pub fn run(_args: &FetchArgs) -> Result<()> {
    Err(Error::new(Class::Bug, "not there yet"))
}
