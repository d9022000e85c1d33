//! Owns what a build is expected to take, in minutes and dollars, and the words of how that was come by: one measured
//! figure, the rest assumed.

use efa_gen::catalog::Catalog;
use efa_gen::plan::{Plan, Then};
use serde::Serialize;

use super::preflight::GATE_NODES;

/// A rough range, for people who wonder whether to wait.
#[derive(Debug, Clone, Serialize)]
pub struct Estimate {
    /// Shortest and longest that would surprise nobody.
    pub minutes: (u32, u32),
    /// What the longest would cost in the table's region; `None` where the table lacks a type.
    pub dollars: Option<f64>,
    /// How the figures were come by.
    pub basis: String,
}

/// Shortest and longest, in minutes.
type Range = (f64, f64);

// Assumed, not measured: no build of efa-gen's has been timed on AWS. Each is wide on purpose.

/// RunInstances to the first login, host keys on the console included.
const BOOTS: Range = (2.0, 5.0);
/// A reboot to the next login.
const REBOOTS: Range = (1.0, 3.0);
/// The distribution's own packages, the update included.
const PACKAGES: Range = (3.0, 10.0);
/// Everything of a component but NCCL's and its tests' compilation: a download and an installer or a short build.
const COMPONENTS: [(&str, Range); 4] =
    [("efa", (1.0, 4.0)), ("driver", (2.0, 6.0)), ("cuda", (2.0, 8.0)), ("plugin", (1.0, 3.0))];
/// Stop of the builder and CreateImage of an empty disk; then each GiB of the root volume as if it were full.
const IMAGE: Range = (4.0, 10.0);
const IMAGE_PER_GIB: Range = (0.0, 0.2);
/// Launch of machines with GPUs and the test on them.
const GATE: Range = (8.0, 25.0);

/// `benches/nccl_build.sh`: 83.7 seconds for one architecture on 32 cores (README, "Speed"); the `make` of all of CUDA 13's
/// took 550 in the same run, so it grows about as the number of architectures does.
const NCCL_CORE_MINUTES: f64 = 83.7 * 32.0 / 60.0;
/// Older NCCLs have less to compile; other cores are slower.
const NCCL_SPREAD: Range = (0.5, 1.3);
/// nccl-tests beside NCCL; assumed.
const TESTS_SHARE: Range = (0.2, 0.6);

/// Minutes and dollars of one build. `vcpus` is what the builder has, `gate` the type that the image is tested on.
pub fn estimate(
    plan: &Plan,
    catalog: &Catalog,
    builder_type: &str,
    vcpus: i32,
    root_gib: i32,
    gate: Option<&str>,
) -> Estimate {
    let prices = &catalog.prices;
    let root_gib = f64::from(root_gib.max(0));
    let reboots = plan.stages.iter().filter(|stage| stage.then == Then::Reboot).count();
    let compile = compilation(plan, vcpus);
    let parts = [
        BOOTS,
        PACKAGES,
        times(REBOOTS, reboots as f64),
        components(plan),
        compile,
        IMAGE,
        times(IMAGE_PER_GIB, root_gib),
    ];
    let builder = parts.into_iter().fold((0.0, 0.0), add);
    let tested = if gate.is_some() { GATE } else { (0.0, 0.0) };
    let (low, high) = add(builder, tested);
    let hours = builder.1 / 60.0;
    let gate_price = gate.map_or(Some(0.0), |kind| prices.hourly(kind));
    let dollars = prices.hourly(builder_type).zip(gate_price).map(|(builder_price, gate_price)| {
        let test = f64::from(GATE_NODES) * gate_price * tested.1 / 60.0;
        cents(builder_price * hours + prices.gp3(root_gib, hours) + test)
    });
    let missing = [Some(builder_type), gate].into_iter().flatten().find(|kind| prices.hourly(kind).is_none());
    let words = [
        time_basis(plan, vcpus, reboots, compile),
        price_basis(catalog, missing),
        format!("The image's snapshots cost ${:.2} a month at most, in each region.", prices.snapshot_month(root_gib)),
    ];
    // Fives of minutes: more would pretend to know.
    let minutes = (((low / 5.0).floor() * 5.0) as u32, ((high / 5.0).ceil() * 5.0) as u32);
    Estimate { minutes, dollars, basis: words.join(" ") }
}

/// NCCL and nccl-tests.
fn compilation(plan: &Plan, vcpus: i32) -> Range {
    let architectures = plan.architectures.len() as f64;
    let one = NCCL_CORE_MINUTES * architectures / f64::from(vcpus.max(1));
    let has = |name: &str| plan.version(name).is_some();
    let nccl = if has("nccl") { (one * NCCL_SPREAD.0, one * NCCL_SPREAD.1) } else { (0.0, 0.0) };
    let tests = if has("nccl-tests") { (one * TESTS_SHARE.0, one * TESTS_SHARE.1) } else { (0.0, 0.0) };
    add(nccl, tests)
}

fn components(plan: &Plan) -> Range {
    let there = COMPONENTS.iter().filter(|(name, _)| plan.version(name).is_some());
    there.fold((0.0, 0.0), |sum, (_, range)| add(sum, *range))
}

fn time_basis(plan: &Plan, vcpus: i32, reboots: usize, compile: Range) -> String {
    let reboots = if reboots == 1 { "1 reboot".to_owned() } else { format!("{reboots} reboots") };
    let rest = format!("{reboots}, downloads, installers and the snapshot are assumed: nothing was timed on AWS.");
    let count = plan.architectures.len();
    if count == 0 {
        return format!("Nothing is compiled for GPUs; {rest}");
    }
    let what = if count == 1 { "1 GPU architecture".to_owned() } else { format!("{count} GPU architectures") };
    format!(
        "NCCL and its tests for {what} on {vcpus} vCPUs take {:.0} to {:.0} minutes, scaled from 84 s for one on 32 cores; {rest}",
        compile.0.floor(),
        compile.1.ceil(),
    )
}

fn price_basis(catalog: &Catalog, missing: Option<&str>) -> String {
    let prices = &catalog.prices;
    let table = format!(
        "{}, on demand, {} only, instances of {}, disks of {}",
        prices.source, prices.region, prices.date, prices.disks.date
    );
    match missing {
        Some(kind) => format!("No cost: {kind} is not in the price table ({table})."),
        None => format!("Dollars are for the longer time and without data transfer: {table}."),
    }
}

fn times(range: Range, factor: f64) -> Range {
    (range.0 * factor, range.1 * factor)
}

fn add(one: Range, other: Range) -> Range {
    (one.0 + other.0, one.1 + other.1)
}

fn cents(dollars: f64) -> f64 {
    (dollars * 100.0).ceil() / 100.0
}
