//! Any bytes as an NCCL log, in two pieces: read, judged, shown, never a panic, and where they are cut makes no difference.

#![no_main]

use efa_gen::nccl::{Expect, Reader, judge};
use efa_gen::render::report::{self, Run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut whole = Reader::new();
    whole.feed(bytes);
    let whole = whole.finish(Some(0));
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut pieces = Reader::new();
    pieces.feed(first);
    pieces.feed(second);
    let pieces = pieces.finish(Some(0));
    let verdict = judge(&whole, &Expect::default());
    assert_eq!(verdict, judge(&pieces, &Expect::default()));
    let run = Run { name: "fuzzed", report: &whole };
    report::html(&[run], &verdict, None).expect("a page can always be made");
    report::junit("fuzzed", &verdict).expect("so can JUnit's XML");
});
