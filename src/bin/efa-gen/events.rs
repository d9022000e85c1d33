//! Owns what a build says while it is at work: the events, and the one place that prints them and keeps them in the run's
//! log. Knows nothing of AWS. Everybody else emits.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::OutputArg;
use crate::report;

/// Something that happened in a build.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run has its name.
    Began { run: String, region: String },
    /// Something begins that takes its time.
    Step { title: String },
    /// A resource exists.
    Made { kind: &'static str, id: String },
    /// A resource is gone.
    Removed { kind: &'static str, id: String },
    /// The builder said something.
    Output { line: String },
    /// What its user should know.
    Note { text: String },
    /// What a preflight found wrong; the hint may be empty.
    Problem { what: String, hint: String },
}

impl Event {
    /// The line for people.
    fn text(&self) -> String {
        match self {
            Event::Began { run, region } => format!("run {run} in {region}"),
            Event::Step { title } => title.clone(),
            Event::Made { kind, id } => format!("  made {kind} {id}"),
            Event::Removed { kind, id } => format!("  removed {kind} {id}"),
            Event::Output { line } => format!("  | {line}"),
            Event::Note { text } => format!("note: {text}"),
            Event::Problem { what, hint } if hint.is_empty() => format!("problem: {what}"),
            Event::Problem { what, hint } => format!("problem: {what}\n   hint: {hint}"),
        }
    }
}

/// Where several builds that run side by side talk to: one line of progress each on a terminal, else plain lines.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: MultiProgress,
    output: OutputArg,
    /// Whether lines need the name of the build that says them.
    several: bool,
}

impl Screen {
    /// `several` builds will talk.
    pub fn new(output: OutputArg, several: bool) -> Self {
        let target = match output {
            OutputArg::Human => ProgressDrawTarget::stderr(),
            OutputArg::Json => ProgressDrawTarget::hidden(),
        };
        Screen { bars: MultiProgress::with_draw_target(target), output, several }
    }

    /// The voice of one build.
    pub fn talk(&self, name: &str) -> Talk {
        let style = ProgressStyle::with_template("{elapsed:>5} {prefix} {wide_msg}").expect("a fixed template");
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style).with_prefix(name.to_owned()));
        if !bar.is_hidden() {
            bar.enable_steady_tick(std::time::Duration::from_secs(1));
        }
        let inner =
            Inner { screen: self.clone(), name: name.to_owned(), bar, log: Mutex::new(None), began: Instant::now() };
        Talk(Arc::new(inner))
    }
}

/// The voice of one build; clones speak with the same voice.
#[derive(Debug, Clone)]
pub struct Talk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    screen: Screen,
    name: String,
    bar: ProgressBar,
    log: Mutex<Option<File>>,
    began: Instant,
}

impl Talk {
    /// From now on everything is kept in this file, too.
    pub fn keep_log(&self, file: File) {
        *self.0.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    pub fn step(&self, title: impl Into<String>) {
        self.emit(&Event::Step { title: title.into() });
    }

    pub fn note(&self, text: impl Into<String>) {
        self.emit(&Event::Note { text: text.into() });
    }

    pub fn emit(&self, event: &Event) {
        self.print(event);
        let mut log = self.0.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = log.as_mut() {
            let line = format!("{:>6} {}\n", self.0.began.elapsed().as_secs(), event.text());
            // The disk is full: said once, and the build goes on.
            if let Err(error) = file.write_all(line.as_bytes()) {
                *log = None;
                report::say(&format!("note: the run's log can't be written any more: {error}"));
            }
        }
    }

    fn print(&self, event: &Event) {
        let Inner { screen, name, bar, .. } = &*self.0;
        if screen.output == OutputArg::Json {
            let mut value = serde_json::to_value(event).expect("an event is plain data");
            value["build"] = name.as_str().into();
            return report::say(&value.to_string());
        }
        let text = event.text();
        if bar.is_hidden() {
            let prefix = if screen.several { format!("[{name}] ") } else { String::new() };
            return report::say(&format!("{prefix}{text}"));
        }
        match event {
            Event::Note { .. } | Event::Began { .. } | Event::Problem { .. } => {
                bar.suspend(|| report::say(&format!("[{name}] {text}")));
            }
            _ => bar.set_message(text.trim_start().to_owned()),
        }
    }

    /// Ends this build's line of progress.
    pub fn done(&self) {
        self.0.bar.finish_and_clear();
    }
}
