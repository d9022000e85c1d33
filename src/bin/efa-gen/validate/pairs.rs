//! Owns looking for the bad host: pairs of hosts are tested side by side, round after round. Knows nothing of what their
//! bandwidths mean.

use std::path::PathBuf;
use std::time::Duration;

use efa_gen::cluster::pairs::{Matrix, Measured, Pair, rounds, tell, wanted};
use efa_gen::cluster::test::Sizes;
use efa_gen::error::Result;
use efa_gen::nccl::{Expect, judge, size};
use tokio::sync::watch;

use super::{Order, Ran, Run, one};
use crate::cluster::each;
use crate::events::{Event, Talk};
use crate::files;

/// Pairs at a time: each is a login on the first host, and OpenSSH's default drops logins beyond ten.
const AT_ONCE: usize = 8;

/// Measured rounds of the one size.
const ITERATIONS: u32 = 5;

/// How long a pair may take.
const LIMIT: Duration = Duration::from_secs(2 * 60);

/// Tests pairs if this run calls for it, and adds to its verdict what they tell.
pub async fn find(
    order: &Order<'_>,
    run: &mut Ran,
    talk: &Talk,
    stop: &watch::Receiver<u32>,
) -> Result<Option<Matrix>> {
    let addresses: Vec<String> = order.hosts.iter().map(|host| host.address.clone()).collect();
    let bars = order.bars(run.collective);
    let Some(why) = wanted(&run.report, &run.verdict, &addresses, order.instance_type, bars) else { return Ok(None) };
    let rounds = rounds(order.hosts.len());
    let folder = order.log.with_extension("pairs");
    files::make_folder(&folder)?;
    talk.note(format!("pairs of hosts are tested, because {why}; their logs are in {}", folder.display()));
    let mut measured = Vec::new();
    for (at, round) in rounds.iter().enumerate() {
        talk.step(format!(
            "pairs: round {} of {}, {} pairs at {}",
            at + 1,
            rounds.len(),
            round.len(),
            size(order.sizes.max)
        ));
        let tested = each(round.iter().copied(), AT_ONCE, async |pair| {
            let (one, other) = (&addresses[pair.0], &addresses[pair.1]);
            let tested = test(order, run, pair, folder.join(format!("{one}+{other}.log")), stop).await?;
            let figure = match (&tested.busbw, &tested.failure) {
                (Some(busbw), _) => format!("{busbw:8.2} GB/s"),
                (None, why) => why.clone().unwrap_or_default(),
            };
            talk.emit(&Event::Output { line: format!("{one} and {other}: {figure}") });
            Result::Ok(tested)
        });
        for tested in tested.await {
            measured.push(tested?);
        }
    }
    let matrix = Matrix::new(&addresses, order.sizes.max, rounds.len(), measured);
    tell(&mut run.verdict, &matrix);
    Ok(Some(matrix))
}

async fn test(order: &Order<'_>, run: &Ran, pair: Pair, log: PathBuf, stop: &watch::Receiver<u32>) -> Result<Measured> {
    let max = order.sizes.max;
    let test = Run {
        collective: run.collective,
        hosts: vec![order.hosts[pair.0].clone(), order.hosts[pair.1].clone()],
        sizes: Sizes { min: max, max, iterations: ITERATIONS },
        limit: LIMIT.min(order.limit),
        log,
    };
    let report = one(order, &test, stop, |_| {}).await?;
    let expect = Expect {
        instance_type: order.instance_type,
        bars: order.bars(run.collective),
        last_size: Some(max),
        ..Expect::default()
    };
    Ok(Measured::new(pair, &report, &judge(&report, &expect)))
}
