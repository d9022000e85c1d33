//! Owns what a build says while it is at work: the events, and the one place that prints them and keeps them in the
//! run's log. Everybody else emits.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use efa_gen::text::{printable, printable_lines};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::terminal;

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
    /// The lines for people.
    fn lines(&self) -> Vec<String> {
        let line = match self {
            Event::Began { run, region } => format!("run {run} in {region}"),
            Event::Step { title } => title.clone(),
            Event::Made { kind, id } => format!("  made {kind} {id}"),
            Event::Removed { kind, id } => format!("  removed {kind} {id}"),
            Event::Output { line } => format!("  | {line}"),
            Event::Note { text } => format!("note: {text}"),
            Event::Problem { what, hint } if hint.is_empty() => format!("problem: {what}"),
            Event::Problem { what, hint } => return vec![format!("problem: {what}"), format!("   hint: {hint}")],
        };
        vec![line]
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Lines for people, and progress on a terminal.
    Lines,
    /// A JSON object a line.
    Json,
}

/// Where several builds that run side by side talk to: one line of progress each on a terminal, else plain lines.
#[derive(Debug, Clone)]
pub struct Reporter {
    bars: MultiProgress,
    form: Form,
    /// Whether lines need the name of the build that says them.
    several: bool,
}

impl Reporter {
    /// `several` builds will talk.
    pub fn new(form: Form, several: bool) -> Self {
        let target = match form {
            Form::Lines => ProgressDrawTarget::stderr(),
            Form::Json => ProgressDrawTarget::hidden(),
        };
        Reporter { bars: MultiProgress::with_draw_target(target), form, several }
    }

    /// The voice of one build.
    pub fn events(&self, name: &str) -> EventSink {
        let style = ProgressStyle::with_template("{elapsed:>5} {prefix} {wide_msg}").expect("a fixed template");
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style).with_prefix(printable(name)));
        if !bar.is_hidden() {
            bar.enable_steady_tick(std::time::Duration::from_secs(1));
        }
        let inner =
            Inner { reporter: self.clone(), name: name.to_owned(), bar, log: Mutex::new(None), began: Instant::now() };
        EventSink(Arc::new(inner))
    }
}

/// The voice of one build; clones speak with the same voice.
#[derive(Debug, Clone)]
pub struct EventSink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reporter: Reporter,
    name: String,
    bar: ProgressBar,
    log: Mutex<Option<File>>,
    began: Instant,
}

impl EventSink {
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
            let seconds = self.0.began.elapsed().as_secs();
            let line = |line: &String| format!("{seconds:>6} {}\n", printable_lines(line));
            let text: String = event.lines().iter().map(line).collect();
            // The disk is full: said once, and the build goes on.
            if let Err(error) = file.write_all(text.as_bytes()) {
                *log = None;
                terminal::message(&format!("note: the run's log can't be written any more: {error}"));
            }
        }
    }

    fn print(&self, event: &Event) {
        let Inner { reporter, name, bar, .. } = &*self.0;
        if reporter.form == Form::Json {
            let mut value = serde_json::to_value(event).expect("an event is plain data");
            value["build"] = name.as_str().into();
            return terminal::json_message(&value);
        }
        let prefix = if reporter.several || !bar.is_hidden() { format!("[{name}] ") } else { String::new() };
        for line in event.lines() {
            match event {
                _ if bar.is_hidden() => terminal::message(&format!("{prefix}{line}")),
                Event::Note { .. } | Event::Began { .. } | Event::Problem { .. } => {
                    bar.suspend(|| terminal::message(&format!("{prefix}{line}")));
                }
                _ => bar.set_message(printable(line.trim_start())),
            }
        }
    }

    /// Ends this build's line of progress.
    pub fn done(&self) {
        self.0.bar.finish_and_clear();
    }
}
