//! Owns `efa-gen completions` and `man`, both generated from the command line's own definition.

use std::path::Path;

use clap::CommandFactory;
use efa_gen::error::{Class, Error, Result};

use crate::cli::Cli;
use crate::io::{files, terminal};

pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "efa-gen", &mut text);
    terminal::data(&text)
}

pub fn man(out: Option<&Path>) -> Result<()> {
    let mut root = Cli::command();
    let Some(out) = out else { return terminal::data(&page(&clap_mangen::Man::new(root))?) };
    // Building gives each subcommand its full name, `efa-gen-render`.
    root.build();
    files::make_folder(out)?;
    let commands = root.get_subcommands().cloned().chain([root.clone()]);
    for man in commands.map(clap_mangen::Man::new) {
        files::write(&out.join(man.get_filename()), &page(&man)?, 0o644)?;
    }
    Ok(())
}

fn page(man: &clap_mangen::Man) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    man.render(&mut text)
        .map_err(|error| Error::new(Class::Bug, "the manual page can't be made").with_source(error))?;
    Ok(text)
}
