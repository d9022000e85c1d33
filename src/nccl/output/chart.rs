//! Owns the bandwidth curve: from rows to coordinates of an SVG.

use serde::Serialize;

use crate::catalog::instance_type::InstanceType;
use crate::nccl::{Report, Row};
use crate::text::rounded_size;

/// Colours of the page's style; further runs take the first again.
pub(crate) const COLORS: usize = 6;

/// A run and what it is called.
#[derive(Debug, Clone, Copy)]
pub struct NamedReport<'a> {
    /// The log's name.
    pub name: &'a str,
    /// What it says.
    pub report: &'a Report,
}

/// A chart, in user units.
#[derive(Serialize)]
pub(crate) struct Chart {
    /// `wide` or `narrow`: which of the two the page shows.
    class: &'static str,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    lines: Vec<Line>,
    levels: Vec<ReferenceLine>,
}

#[derive(Serialize)]
struct Tick {
    at: f64,
    label: String,
}

/// A curve of one run in one direction.
#[derive(Serialize)]
struct Line {
    /// `c0` and so on; `in-place` is dashed.
    class: String,
    points: String,
    dots: Vec<Dot>,
}

#[derive(Serialize)]
struct Dot {
    x: f64,
    y: f64,
    title: String,
}

/// A bandwidth that holds for all sizes, or a bar at one.
#[derive(Serialize)]
struct ReferenceLine {
    class: &'static str,
    y: f64,
    label_y: f64,
    label: String,
}

struct Scale {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Powers of two.
    first: f64,
    last: f64,
    highest: f64,
}

impl Scale {
    fn x(&self, size: u64) -> f64 {
        let span = (self.last - self.first).max(1.0);
        round(self.left + (self.right - self.left) * ((size as f64).log2() - self.first) / span)
    }

    fn y(&self, busbw: f64) -> f64 {
        round(self.bottom - (self.bottom - self.top) * (busbw / self.highest).clamp(0.0, 1.0))
    }
}

/// The chart for wide and for narrow screens: letters keep their size, so one can't be the other made smaller.
pub(crate) fn both(runs: &[NamedReport], bar: Option<(f64, u64)>, instance_type: Option<&InstanceType>) -> Vec<Chart> {
    let measured = |run: &NamedReport| run.report.rows.iter().any(|row| row.size > 0);
    if !runs.iter().any(measured) {
        return Vec::new();
    }
    vec![
        chart("wide", (960.0, 420.0), 11, runs, bar, instance_type),
        chart("narrow", (360.0, 320.0), 5, runs, bar, instance_type),
    ]
}

fn chart(
    class: &'static str,
    (width, height): (f64, f64),
    x_labels: usize,
    runs: &[NamedReport],
    bar: Option<(f64, u64)>,
    instance_type: Option<&InstanceType>,
) -> Chart {
    let rows = || runs.iter().flat_map(|run| run.report.rows.iter()).filter(|row| row.size > 0);
    let power = |size: u64| (size as f64).log2();
    let first = rows().map(|row| power(row.size)).fold(f64::INFINITY, f64::min);
    let last = rows().map(|row| power(row.size)).fold(first, f64::max);
    let measured = rows().map(busbw).fold(bar.map_or(0.0, |(bar, _)| bar), f64::max);
    // A link far above all that was measured would leave a flat line of the rest: it is named, not drawn.
    let link = instance_type.map(|instance_type| instance_type.bandwidth_mbps as f64 / 8000.0);
    let drawn = link.filter(|link| *link <= 5.0 * measured);
    let (step, highest) = steps(measured.max(drawn.unwrap_or(0.0)) * 1.05);
    let scale = Scale { left: 46.0, right: width - 24.0, top: 12.0, bottom: height - 44.0, first, last, highest };
    let mut levels = Vec::new();
    if let Some((bar, at)) = bar {
        levels.push(level("bar", &scale, bar, format!("bar {bar} GB/s at {}", rounded_size(at))));
    }
    if let Some(link) = link {
        let label = format!("link {link} GB/s a host (limit of a ring)");
        match drawn {
            Some(_) => levels.push(level("link", &scale, link, label)),
            None => levels.push(level("link off", &scale, highest, format!("{label}: above this chart"))),
        }
    }
    let lines = runs.iter().enumerate().flat_map(|(at, run)| lines(at, run, &scale)).collect();
    let count = (highest / step).round() as usize;
    let y_tick = |at: usize| Tick { at: scale.y(step * at as f64), label: plain(step * at as f64) };
    let powers = (last - first).ceil() as usize;
    let every = powers.div_ceil(x_labels).max(1);
    let x_tick = |at: usize| {
        let bytes = 2f64.powf(first.floor() + (at * every) as f64);
        Tick { at: scale.x(bytes as u64), label: rounded_size(bytes as u64) }
    };
    Chart {
        class,
        width,
        height,
        left: scale.left,
        right: scale.right,
        top: scale.top,
        bottom: scale.bottom,
        x_ticks: (0..=powers / every).map(x_tick).filter(|tick| tick.at >= scale.left).collect(),
        y_ticks: (0..=count).map(y_tick).collect(),
        lines,
        levels,
    }
}

fn busbw(row: &Row) -> f64 {
    row.in_place.as_ref().map_or(0.0, |timing| timing.busbw).max(row.out_of_place.busbw)
}

fn level(class: &'static str, scale: &Scale, busbw: f64, label: String) -> ReferenceLine {
    let y = scale.y(busbw);
    ReferenceLine { class, y, label_y: if y < scale.top + 16.0 { y + 14.0 } else { y - 5.0 }, label }
}

fn lines(at: usize, run: &NamedReport, scale: &Scale) -> Vec<Line> {
    let color = at % COLORS;
    let line = |kind: &str, name: &str, busbw: &dyn Fn(&Row) -> Option<f64>| {
        let rows = run.report.rows.iter().filter(|row| row.size > 0);
        let dots: Vec<Dot> = rows
            .filter_map(|row| busbw(row).map(|busbw| (row.size, busbw)))
            .map(|(bytes, busbw)| Dot {
                x: scale.x(bytes),
                y: scale.y(busbw),
                title: format!("{}, {name}: {busbw:.2} GB/s at {}", run.name, rounded_size(bytes)),
            })
            .collect();
        let points = dots.iter().map(|dot| format!("{},{}", dot.x, dot.y)).collect::<Vec<_>>().join(" ");
        Line { class: format!("c{color}{kind}"), points, dots }
    };
    vec![
        line("", "out of place", &|row| Some(row.out_of_place.busbw)),
        line(" in-place", "in place", &|row| row.in_place.as_ref().map(|timing| timing.busbw)),
    ]
}

/// A step of 1, 2 or 5 times a power of ten, and the highest tick: four to eight steps.
fn steps(highest: f64) -> (f64, f64) {
    let highest = if highest > 0.0 { highest } else { 1.0 };
    let magnitude = 10f64.powf((highest / 8.0).log10().floor());
    let fits = |factor: &&f64| highest / (**factor * magnitude) <= 8.0;
    let step = [1.0, 2.0, 5.0, 10.0].iter().find(fits).map_or(10.0, |factor| *factor) * magnitude;
    (step, (highest / step).ceil() * step)
}

fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
