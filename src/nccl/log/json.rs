//! Owns the JSON that nccl-tests writes with `-J` or `--output_file`, from 2.17.4 on (version 3 at 2.19.6). It holds no
//! word about the network, so it alone can never prove EFA.
//!
//! Oddities: `root` and `okay` are strings, `nwrong` is a floating-point number, `config.devices` may list one GPU of
//! several, `env` names variables of the image (its `NCCL_VERSION` is not the library's), `errors` is `[""]` when fine.

use serde::Deserialize;

use super::evidence::Evidence;
use super::row::{Preamble, RankLine, Row, Timing};
use crate::text::clean;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    nccl_version: Option<u64>,
    config: Config,
    results: Vec<Measured>,
    out_of_bounds: Option<OutOfBounds>,
    average_bus_bandwidth: Option<Average>,
    #[serde(default)]
    errors: Vec<String>,
    end_time: Option<String>,
}

#[derive(Deserialize)]
struct Config {
    nthreads: u64,
    ngpus: u64,
    minimum_bytes: u64,
    maximum_bytes: u64,
    #[serde(default)]
    step_factor: u64,
    #[serde(default)]
    step_bytes: u64,
    #[serde(default)]
    iterations: u64,
    #[serde(default)]
    warmup_iters: u64,
    #[serde(default)]
    validation: u64,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    rank: u64,
    pid: u64,
    hostname: String,
    device: u64,
    #[serde(default)]
    device_info: String,
}

#[derive(Deserialize)]
struct Measured {
    size: u64,
    count: u64,
    r#type: String,
    #[serde(default)]
    redop: String,
    out_of_place: Direction,
    in_place: Option<Direction>,
}

#[derive(Deserialize)]
struct Direction {
    time: f64,
    alg_bw: f64,
    bus_bw: f64,
    nwrong: Option<f64>,
}

#[derive(Deserialize)]
struct OutOfBounds {
    count: f64,
    okay: String,
}

#[derive(Deserialize)]
struct Average {
    bandwidth: f64,
}

/// Takes what the document says; `false` if it is none of nccl-tests, or cut.
pub(crate) fn take(evidence: &mut Evidence, text: &[u8]) -> bool {
    let Ok(document) = serde_json::from_slice::<Document>(text) else { return false };
    let Document { args, env, nccl_version, config, results, out_of_bounds, average_bus_bandwidth, errors, end_time } =
        document;
    evidence.json = true;
    evidence.lines += memchr::memchr_iter(b'\n', text).count() as u64;
    evidence.preambles = 1;
    evidence.preamble = Some(Preamble {
        gpus: config.ngpus,
        threads: config.nthreads,
        min_bytes: config.minimum_bytes,
        max_bytes: config.maximum_bytes,
        step_factor: config.step_factor,
        step_bytes: config.step_bytes,
        warmup_iters: config.warmup_iters,
        iters: config.iterations,
        validation: config.validation > 0,
    });
    evidence.collective = args.first().and_then(|path| path.rsplit('/').next()).map(|name| clean(name.as_bytes()));
    evidence.started = true;
    evidence.concluded = end_time.is_some_and(|time| !time.is_empty());
    if let Some(code) = nccl_version {
        evidence.nccl.add(library_version(code).as_bytes());
    }
    for (name, value) in env.iter().filter_map(|variable| variable.split_once('=')) {
        // The image's, not the library's.
        if name != "NCCL_VERSION" {
            evidence.add_variable(name.as_bytes(), value.as_bytes());
        }
    }
    for device in &config.devices {
        evidence.add_rank(&RankLine {
            rank: device.rank,
            pid: device.pid.to_string().as_bytes(),
            host: device.hostname.as_bytes(),
            device: device.device,
            gpu: device.device_info.as_bytes(),
        });
    }
    for measured in results {
        evidence.add_row(measured.row());
    }
    let whole = |count: f64| if count.is_finite() && count >= 0.0 { count.ceil() as u64 } else { u64::MAX };
    evidence.out_of_bounds = out_of_bounds.map(|found| (whole(found.count), found.okay == "true"));
    evidence.average = average_bus_bandwidth.map(|average| average.bandwidth);
    for error in errors.iter().filter(|error| !error.trim().is_empty()) {
        evidence.add_warning(None, error.as_bytes());
    }
    true
}

/// 22809 is 2.28.9; up to 2.8 it was 2708 for 2.7.8 (NVIDIA/nccl `src/nccl.h.in`, `NCCL_VERSION`).
fn library_version(code: u64) -> String {
    let (major, minor) = if code < 10_000 { (code / 1000, code / 100 % 10) } else { (code / 10_000, code / 100 % 100) };
    format!("{major}.{minor}.{}", code % 100)
}

impl Measured {
    fn row(self) -> Row {
        let timing = |direction: Direction| Timing {
            time_us: direction.time,
            algbw: direction.alg_bw,
            busbw: direction.bus_bw,
            wrong: direction.nwrong.filter(|wrong| wrong.is_finite()).map(|wrong| wrong.max(0.0).ceil() as u64),
        };
        Row {
            size: self.size,
            count: self.count,
            data_type: clean(self.r#type.as_bytes()),
            redop: clean(self.redop.as_bytes()),
            root: None,
            out_of_place: timing(self.out_of_place),
            in_place: self.in_place.map(timing),
        }
    }
}
