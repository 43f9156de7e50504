//! How far a transfer is: bars on a terminal, lines elsewhere, JSON for programs.
//!
//! A [`Progress`] is fed with every message of a pull, a push or a load, as a [`Step`], and decides
//! alone what is shown.

mod bars;
mod json;
mod lines;
mod step;

use clap::ValueEnum;

pub(crate) use step::Step;

use crate::failure::Failure;
use crate::terminal;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum ProgressStyle {
    /// Bars on a terminal, else lines.
    #[default]
    Auto,
    /// A line for each step.
    Plain,
    /// A JSON object for each step.
    Json,
}

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard output: the progress is the result.
    Stdout,
    /// Standard error: the result is something else.
    Stderr,
}

/// Shows the progress of one transfer.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing.
    Silent,
    /// Bars.
    Bars(bars::Bars),
    /// Lines.
    Lines(lines::Lines, Target),
    /// JSON.
    Json(Target),
}

impl Progress {
    /// Chooses how to show progress.
    pub(crate) fn new(style: ProgressStyle, target: Target) -> Self {
        match style {
            ProgressStyle::Json => Self::Json(target),
            ProgressStyle::Auto if target.is_terminal() => Self::Bars(bars::Bars::new(target)),
            ProgressStyle::Auto | ProgressStyle::Plain => {
                Self::Lines(lines::Lines::default(), target)
            }
        }
    }

    /// Shows progress only where it can be drawn over: bars on a terminal, or nothing.
    pub(crate) fn on_terminal(target: Target) -> Self {
        match target.is_terminal() {
            true => Self::Bars(bars::Bars::new(target)),
            false => Self::Silent,
        }
    }

    /// Shows one message.
    ///
    /// # Errors
    /// A [`Failure`] if nothing can be written.
    pub(crate) fn show(&mut self, step: &Step) -> Result<(), Failure> {
        match self {
            Self::Silent => Ok(()),
            Self::Bars(bars) => bars.show(step),
            Self::Lines(lines, target) => target.write(&lines.of(step)),
            Self::Json(target) => target.write(&json::line(step)),
        }
    }
}

impl Target {
    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => terminal::stdout_is_terminal(),
            Self::Stderr => terminal::stderr_is_terminal(),
        }
    }

    fn write(self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Stdout => crate::output::print(text),
            Self::Stderr => {
                crate::output::complain(text);
                Ok(())
            }
        }
    }
}
