//! What a build tells while it runs: steps that begin, write and end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

/// Where a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    /// It began.
    Started,
    /// Its result was there already.
    Cached,
    /// It is done.
    Done,
    /// It failed, and why.
    Failed(String),
    /// It was given up, since something else failed.
    Canceled,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step changed its state.
    Step {
        /// Number, from 1, in the order of beginning.
        id: u32,
        /// The step, for people.
        name: String,
        /// Its new state.
        state: StepState,
    },
    /// A step wrote something.
    Log {
        /// The step.
        id: u32,
        /// Whether to standard error.
        is_stderr: bool,
        /// What.
        bytes: Bytes,
    },
    /// A part of a step moves on: a transfer, an export.
    Status {
        /// The step.
        id: u32,
        /// The part, for people.
        name: String,
        /// How far it is.
        current: u64,
        /// How far it goes; 0 if unknown.
        total: u64,
        /// Whether it is done.
        is_done: bool,
    },
    /// Something to be careful about.
    Warning {
        /// Line of the Dockerfile.
        line: Option<usize>,
        /// Name of the check.
        check: &'static str,
        /// What.
        message: String,
    },
}

/// Takes what is told. Clones share the numbers.
#[derive(Debug, Clone)]
pub struct Progress {
    sink: UnboundedSender<Event>,
    counter: Arc<AtomicU32>,
}

impl Progress {
    /// Tells to `sink`; what nobody reads is dropped. The sink is bounded by what steps write: they
    /// wait while the client is behind.
    #[must_use]
    pub fn new(sink: UnboundedSender<Event>) -> Self {
        Self { sink, counter: Arc::default() }
    }

    /// Begins a step.
    #[must_use]
    pub fn step(&self, name: impl Into<String>) -> Step {
        let id = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
        let step =
            Step { progress: self.clone(), id, name: name.into(), is_over: AtomicBool::new(false) };
        step.tell(StepState::Started);
        step
    }

    /// Warns.
    pub fn warn(&self, line: Option<usize>, check: &'static str, message: impl Into<String>) {
        self.send(Event::Warning { line, check, message: message.into() });
    }

    fn send(&self, event: Event) {
        // Nobody listens to a build that was given up.
        let _ = self.sink.send(event);
    }
}

/// A step that is told of; one that is dropped was given up.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    id: u32,
    name: String,
    is_over: AtomicBool,
}

impl Step {
    /// Returns the step, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its result was there already.
    pub fn cached(&self) {
        self.end(StepState::Cached);
    }

    /// It is done.
    pub fn done(&self) {
        self.end(StepState::Done);
    }

    /// It failed.
    pub fn failed(&self, why: impl Into<String>) {
        self.end(StepState::Failed(why.into()));
    }

    /// Tells how it ended, once.
    fn end(&self, state: StepState) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            self.tell(state);
        }
    }

    /// Passes on what it writes.
    pub fn log(&self, is_stderr: bool, bytes: Bytes) {
        self.progress.send(Event::Log { id: self.id, is_stderr, bytes });
    }

    /// Tells of a part of it.
    pub fn status(&self, name: impl Into<String>, current: u64, total: u64, is_done: bool) {
        let name = name.into();
        self.progress.send(Event::Status { id: self.id, name, current, total, is_done });
    }

    fn tell(&self, state: StepState) {
        self.progress.send(Event::Step { id: self.id, name: self.name.clone(), state });
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end(StepState::Canceled);
    }
}
