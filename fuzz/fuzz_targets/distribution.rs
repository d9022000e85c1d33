//! Any text as a distribution file: refused, or a plan and three formats. Never a panic.

#![no_main]

use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::plan::{self, Request};
use efa_gen::render::{self, Format, PackerGrammar};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(distribution) = Distribution::parse("fuzzed", text) else { return };
    let pins = Catalog::embedded().expect("the embedded facts are sound").pins;
    let Ok(catalog) = Catalog::new(vec![distribution], pins) else { return };
    let request = Request { distribution: "fuzzed".into(), ..Request::default() };
    let Ok(plan) = plan::plan(&catalog, &request) else { return };
    for format in Format::all(PackerGrammar::Newest) {
        let _ = render::render(&plan, &[format]);
    }
});
