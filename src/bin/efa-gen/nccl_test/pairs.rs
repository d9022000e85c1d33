//! Owns looking for the bad host: pairs of hosts are tested side by side, round after round.

use std::path::PathBuf;

use efa_gen::error::Result;
use efa_gen::nccl::command::Sizes;
use efa_gen::nccl::pairs::{Matrix, Pair, PairResult, add_findings, rounds, wanted};
use efa_gen::nccl::{Expect, judge};
use efa_gen::text::size;
use tokio::sync::watch;

use super::{TestInvocation, TestRun, TestSpec, run_once};
use crate::io::concurrency::map_concurrent;
use crate::io::events::{Event, EventSink};
use crate::io::files;
use crate::timeouts;

/// Pairs at a time: each is a login on the first host, and OpenSSH's default drops logins beyond ten.
const AT_ONCE: usize = 8;

/// Measured rounds of the one size.
const ITERATIONS: u32 = 5;

/// Tests pairs if this run calls for it, and adds to its verdict what they tell.
pub async fn find(
    spec: &TestSpec<'_>,
    run: &mut TestRun,
    events: &EventSink,
    stop: &watch::Receiver<u32>,
) -> Result<Option<Matrix>> {
    let addresses: Vec<String> = spec.hosts.iter().map(|host| host.address.clone()).collect();
    let bars = spec.bars(run.collective);
    let Some(why) = wanted(&run.report, &run.verdict, &addresses, spec.instance_type, bars) else { return Ok(None) };
    let rounds = rounds(spec.hosts.len());
    let folder = spec.log.with_extension("pairs");
    files::make_folder(&folder)?;
    events.note(format!("pairs of hosts are tested, because {why}; their logs are in {}", folder.display()));
    let mut measured = Vec::new();
    for (at, round) in rounds.iter().enumerate() {
        events.step(format!(
            "pairs: round {} of {}, {} pairs at {}",
            at + 1,
            rounds.len(),
            round.len(),
            size(spec.sizes.max)
        ));
        let tested = map_concurrent(round.iter().copied(), AT_ONCE, async |pair| {
            let (one, other) = (&addresses[pair.0], &addresses[pair.1]);
            let tested = test(spec, run, pair, folder.join(format!("{one}+{other}.log")), stop).await?;
            let figure = match (&tested.busbw, &tested.failure) {
                (Some(busbw), _) => format!("{busbw:8.2} GB/s"),
                (None, why) => why.clone().unwrap_or_default(),
            };
            events.emit(&Event::Output { line: format!("{one} and {other}: {figure}") });
            Result::Ok(tested)
        });
        for tested in tested.await {
            measured.push(tested?);
        }
    }
    let matrix = Matrix::new(&addresses, spec.sizes.max, rounds.len(), measured);
    add_findings(&mut run.verdict, &matrix);
    Ok(Some(matrix))
}

async fn test(
    spec: &TestSpec<'_>,
    run: &TestRun,
    pair: Pair,
    log: PathBuf,
    stop: &watch::Receiver<u32>,
) -> Result<PairResult> {
    let max = spec.sizes.max;
    let test = TestInvocation {
        collective: run.collective,
        hosts: vec![spec.hosts[pair.0].clone(), spec.hosts[pair.1].clone()],
        sizes: Sizes { min: max, max, iterations: ITERATIONS },
        limit: timeouts::PAIR_TEST.min(spec.limit),
        log,
    };
    let report = run_once(spec, &test, stop, |_| {}).await?;
    let expect = Expect {
        instance_type: spec.instance_type,
        bars: spec.bars(run.collective),
        last_size: Some(max),
        ..Expect::default()
    };
    Ok(PairResult::new(pair, &report, &judge(&report, &expect)))
}
