//! Owns what nccl-tests prints for people: rows, their header, the preamble, the Rank lines.
//!
//! Rows have 12 fields up to nccl-tests 2.11 (`size count type redop | time algbw busbw error`, twice), 13 from 2.13.0 on
//! (`root` after `redop`, `#wrong` for `error`), and more with `-S` or per-iteration times: columns are found by the
//! header, else by their number; an operation may be blank. Times may lack a dot, `#wrong` may be `N/A`, sizes may be 0.

use serde::Serialize;

use super::bytes::{behind, digits, float, number};
use crate::text::clean;

/// One direction of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// Microseconds.
    pub time_us: f64,
    /// Algorithm bandwidth, GB/s.
    pub algbw: f64,
    /// Bus bandwidth, GB/s.
    pub busbw: f64,
    /// Wrong values; `None` where nobody looked.
    pub wrong: Option<u64>,
}

/// One row of the table: a size, measured out of place and in place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Bytes; 0 where the size asked for rounds down to nothing.
    pub size: u64,
    /// Elements.
    pub count: u64,
    /// `float`.
    pub data_type: String,
    /// `sum`, or `none`; empty where the table has no such column.
    pub redop: String,
    /// The rank that sends or receives all, where the table has that column and the test has one; -1 where it has none.
    #[serde(skip)]
    pub root: Option<i64>,
    /// Separate buffers.
    pub out_of_place: Timing,
    /// One buffer; absent where the test does not measure it.
    pub in_place: Option<Timing>,
}

impl Row {
    /// The worse of the two bus bandwidths, GB/s.
    pub fn worst_busbw(&self) -> f64 {
        self.in_place.as_ref().map_or(self.out_of_place.busbw, |timing| timing.busbw.min(self.out_of_place.busbw))
    }

    /// Bytes of one element, where the type is known.
    pub(crate) fn element(&self) -> Option<u64> {
        match self.data_type.as_str() {
            "char" | "int8" | "uint8" | "f8e4m3" | "f8e5m2" | "fp8_e4m3" | "fp8_e5m2" => Some(1),
            "half" | "bfloat16" | "fp16" => Some(2),
            "int" | "float" | "int32" | "uint32" => Some(4),
            "double" | "int64" | "uint64" => Some(8),
            _ => None,
        }
    }

    /// Wrong values of both directions.
    pub fn wrong(&self) -> u64 {
        let in_place = self.in_place.as_ref().and_then(|timing| timing.wrong).unwrap_or(0);
        self.out_of_place.wrong.unwrap_or(0).saturating_add(in_place)
    }
}

/// What the run was asked to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Preamble {
    /// GPUs of one thread, threads of one process.
    pub gpus: u64,
    /// Threads of one process.
    pub threads: u64,
    /// Smallest size asked for, bytes.
    pub min_bytes: u64,
    /// Largest size asked for, bytes.
    pub max_bytes: u64,
    /// The next size is this many times the last; 1 or 0 where `step_bytes` holds.
    pub step_factor: u64,
    /// The next size is this many bytes more.
    pub step_bytes: u64,
    /// Iterations before anything is measured, at the largest size and at the smallest.
    pub warmup_iters: u64,
    /// Measured iterations.
    pub iters: u64,
    /// Whether values were checked.
    pub validation: bool,
}

impl Preamble {
    /// `nThread 1 nGpus 1 minBytes 8 maxBytes 1073741824 step: 2(factor) warmup iters: 5 iters: 100 ... validation: 1`.
    pub(crate) fn parse(text: &[u8]) -> Option<Preamble> {
        let value = |name: &str| digits(behind(text, name)?.trim_ascii_start()).map(|(number, _)| number);
        let (step, unit) = digits(behind(text, "step:")?.trim_ascii_start())?;
        let factor = unit.starts_with(b"(factor)");
        if !factor && !unit.starts_with(b"(bytes)") {
            return None;
        }
        Some(Preamble {
            threads: value("nThread ")?,
            gpus: value("nGpus ")?,
            min_bytes: value("minBytes ")?,
            max_bytes: value("maxBytes ")?,
            step_factor: if factor { step } else { 1 },
            step_bytes: if factor { 0 } else { step },
            warmup_iters: behind(text, "warmup iters:")
                .and_then(|rest| digits(rest.trim_ascii_start()))
                .map(|(n, _)| n)?,
            // Not the warm-up's nor the aggregated ones.
            iters: behind(text, "warmup iters:")
                .and_then(|rest| behind(rest, " iters:"))
                .and_then(|rest| digits(rest.trim_ascii_start()))
                .map(|(n, _)| n)?,
            validation: value("validation:")? > 0,
        })
    }

    /// The sizes that will be measured: how many, and the last one. `None` where they cannot be told.
    ///
    /// The last is the largest one that is no larger than the maximum: 8388608 where 10485760 is asked for.
    pub fn sizes(&self) -> Option<(u64, u64)> {
        if self.min_bytes > self.max_bytes {
            return None;
        }
        if self.step_factor > 1 {
            let (mut size, mut count) = (self.min_bytes, 1_u64);
            if size == 0 {
                return None;
            }
            while let Some(next) = size.checked_mul(self.step_factor).filter(|next| *next <= self.max_bytes) {
                (size, count) = (next, count.saturating_add(1));
            }
            return Some((count, size));
        }
        let steps = self.max_bytes.saturating_sub(self.min_bytes).checked_div(self.step_bytes).unwrap_or(0);
        Some((steps.saturating_add(1), self.min_bytes.saturating_add(steps.saturating_mul(self.step_bytes))))
    }
}

/// Where the columns are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColumnLayout {
    redop: Option<usize>,
    root: Option<usize>,
    /// First column of each direction: time, algbw, busbw, then `#wrong` or `error`.
    out_of_place: usize,
    in_place: usize,
    /// The last column of a direction counts wrong values; else it is the largest error, which rounding explains.
    counts_wrong: bool,
}

/// Most fields of a row that are looked at.
const FIELDS: usize = 24;

/// As nccl-tests names its types, the older names first.
const TYPES: [&str; 17] = [
    "char", "int", "half", "float", "double", "int8", "uint8", "int32", "uint32", "int64", "uint64", "bfloat16",
    "f8e4m3", "f8e5m2", "fp8_e4m3", "fp8_e5m2", "fp16",
];

impl ColumnLayout {
    /// From `#  size  count  type  redop  root  time  algbw  busbw  #wrong  time  algbw  busbw  #wrong`.
    pub(crate) fn parse(header: &[u8]) -> Option<ColumnLayout> {
        let mut fields = header.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        if fields.next()? != b"size" || fields.next()? != b"count" || fields.next()? != b"type" {
            return None;
        }
        let (mut redop, mut root, mut times, mut counts_wrong) = (None, None, Vec::with_capacity(2), false);
        for (at, field) in fields.take(FIELDS).enumerate().map(|(at, field)| (at + 3, field)) {
            match field {
                b"redop" => redop = Some(at),
                b"root" => root = Some(at),
                b"time" | b"cputime" => times.push(at),
                b"#wrong" => counts_wrong = true,
                _ => {}
            }
        }
        let [out_of_place, in_place] = times[..] else { return None };
        Some(ColumnLayout { redop, root, out_of_place, in_place, counts_wrong })
    }

    /// Where the fields of a row without a header are. Before the times there is an operation, then a root.
    fn of_fields(fields: &[&[u8]]) -> Option<ColumnLayout> {
        let old = ColumnLayout { redop: Some(3), root: None, out_of_place: 4, in_place: 8, counts_wrong: false };
        let new = ColumnLayout { redop: Some(3), root: Some(4), out_of_place: 5, in_place: 9, counts_wrong: true };
        let no_operation = float(fields.get(3)?).is_some();
        match (fields.len(), no_operation) {
            (12, false) => Some(old),
            (11, true) => Some(old.without_operation()),
            (13.., false) => Some(new),
            (12.., true) => Some(new.without_operation()),
            _ => None,
        }
    }

    /// The same with an operation that is blank, so that all else is one field further to the left: alltoall, all_gather,
    /// broadcast, gather and scatter up to nccl-tests 2.13.3, hypercube up to 2.19.6.
    fn without_operation(self) -> ColumnLayout {
        let left = |at: usize| at.saturating_sub(1);
        ColumnLayout {
            redop: None,
            root: self.root.map(left),
            out_of_place: left(self.out_of_place),
            in_place: left(self.in_place),
            ..self
        }
    }
}

/// What a line is that may be a row.
#[derive(Debug, PartialEq)]
pub(crate) enum ParsedLine {
    Row(Row),
    /// It begins like a row, but is cut or garbled.
    Damaged,
    No,
}

/// Reads a row: its first two fields are whole numbers and the third names a type, which no table of NCCL's own has.
pub(crate) fn row(line: &[u8], layout: Option<ColumnLayout>) -> ParsedLine {
    let mut fields = [&b""[..]; FIELDS];
    let mut length = 0;
    for field in line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).take(FIELDS) {
        // Before all is split: most lines are none.
        if (length < 2 && number(field).is_none())
            || (length == 2 && !TYPES.iter().any(|name| name.as_bytes() == field))
        {
            return ParsedLine::No;
        }
        fields[length] = field;
        length += 1;
    }
    let fields = &fields[..length];
    if length < 3 {
        return ParsedLine::No;
    }
    let layout = match layout {
        // A header of another run promises more, or less.
        Some(known) if length >= known.in_place + 4 => Some(known),
        Some(known) if known.redop.is_some() && length + 1 == known.in_place + 4 => {
            float(fields[3]).map(|_| known.without_operation())
        }
        Some(_) => None,
        None => ColumnLayout::of_fields(fields),
    };
    layout.and_then(|layout| filled(fields, layout)).map_or(ParsedLine::Damaged, ParsedLine::Row)
}

fn filled(fields: &[&[u8]], layout: ColumnLayout) -> Option<Row> {
    let text = |at: Option<usize>| at.map_or(String::new(), |at| clean(fields[at]));
    let in_place = &fields[layout.in_place..layout.in_place + 4];
    let whole = fields[2].windows(3).any(|part| part == b"int") || fields[2] == b"char";
    Some(Row {
        size: number(fields[0])?,
        count: number(fields[1])?,
        data_type: text(Some(2)),
        redop: text(layout.redop),
        root: layout.root.and_then(|at| std::str::from_utf8(fields[at]).ok()?.parse().ok()),
        out_of_place: timing(&fields[layout.out_of_place..layout.out_of_place + 4], layout, whole)?,
        in_place: if in_place[..3].iter().all(|field| *field == b"N/A") {
            None
        } else {
            Some(timing(in_place, layout, whole)?)
        },
    })
}

fn timing(fields: &[&[u8]], layout: ColumnLayout, whole: bool) -> Option<Timing> {
    let finite = |text: &[u8]| float(text).filter(|value| value.is_finite() && *value >= 0.0);
    let last = fields[3];
    let wrong = match last {
        b"N/A" => None,
        _ if layout.counts_wrong => Some(number(last).or_else(|| Some(finite(last)?.ceil() as u64))?),
        // 5e-07 is rounding. An error that is no number is a wrong value, and so is one of whole numbers, which do not round.
        _ => {
            let error = float(last)?;
            Some(u64::from(!error.is_finite() || whole && error > 0.0))
        }
    };
    Some(Timing { time_us: finite(fields[0])?, algbw: finite(fields[1])?, busbw: finite(fields[2])?, wrong })
}

/// A Rank line: which process and GPU a rank is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RankLine<'a> {
    pub rank: u64,
    pub pid: &'a [u8],
    pub host: &'a [u8],
    pub device: u64,
    pub gpu: &'a [u8],
}

/// `Rank  0 Pid     14 on HOST device  0 [0x00] Tesla V100-SXM2-32GB`; from 2.13.4 on `Group  0` before `Pid`.
pub(crate) fn rank(text: &[u8]) -> Option<RankLine<'_>> {
    let mut rest = text;
    let mut word = || {
        rest = rest.trim_ascii_start();
        let length = rest.iter().take_while(|b| !b.is_ascii_whitespace()).count();
        let word = &rest[..length];
        rest = &rest[length..];
        word
    };
    (word() == b"Rank").then_some(())?;
    let rank = number(word())?;
    let mut next = word();
    if next == b"Group" {
        number(word())?;
        next = word();
    }
    (next == b"Pid").then_some(())?;
    let pid = word();
    number(pid)?;
    (word() == b"on").then_some(())?;
    let host = word();
    (word() == b"device").then_some(())?;
    let device = number(word())?;
    let bus = word();
    (!host.is_empty() && bus.starts_with(b"[") && bus.ends_with(b"]")).then_some(())?;
    Some(RankLine { rank, pid, host, device, gpu: rest.trim_ascii() })
}
