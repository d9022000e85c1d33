//! Owns what becomes of a panic, on whatever thread: one sentence on stderr, and the exit code of a bug.

use std::panic::PanicHookInfo;

use efa_gen::error::Class;
use efa_gen::text::{clip, printable};

/// Characters of the panic's own message that are shown.
const SHOWN: usize = 300;

/// From here on a panic ends the process at once, as a signal would: what a run has made stands in its ledger, for a sweep.
/// Packer, which has a process group of its own, goes on. With RUST_BACKTRACE the backtrace comes first. `say` prints one line on stderr.
pub fn install(say: fn(&str)) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            usual(panic);
        }
        say(&sentence(panic));
        std::process::exit(Class::Bug as i32);
    }));
}

fn sentence(panic: &PanicHookInfo<'_>) -> String {
    let said = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map_or("an unknown place".to_owned(), ToString::to_string);
    format!(
        "error: efa-gen {} failed at {place} ({}): this is a bug in efa-gen, not in what you asked for; please report this \
         line and the command",
        env!("CARGO_PKG_VERSION"),
        printable(clip(said, SHOWN).as_bytes())
    )
}
