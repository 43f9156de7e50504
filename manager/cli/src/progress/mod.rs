//! How far a pull is: bars on a terminal, lines elsewhere, JSON for programs.
//!
//! A [`Progress`] is fed with every message of `Images.Pull`, and decides alone what is shown.

mod bars;
mod json;
mod lines;

use clap::ValueEnum;
use keg_proto::keg::v1::pull_image_response::Event;

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

/// Shows the progress of one pull.
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
        let on_terminal = match target {
            Target::Stdout => terminal::stdout_is_terminal(),
            Target::Stderr => terminal::stderr_is_terminal(),
        };
        match style {
            ProgressStyle::Json => Self::Json(target),
            ProgressStyle::Auto if on_terminal => Self::Bars(bars::Bars::new(target)),
            ProgressStyle::Auto | ProgressStyle::Plain => {
                Self::Lines(lines::Lines::default(), target)
            }
        }
    }

    /// Shows one message.
    ///
    /// # Errors
    /// A [`Failure`] if nothing can be written.
    pub(crate) fn show(&mut self, event: &Event) -> Result<(), Failure> {
        match self {
            Self::Silent => Ok(()),
            Self::Bars(bars) => bars.show(event),
            Self::Lines(lines, target) => target.write(&lines.of(event)),
            Self::Json(target) => target.write(&json::line(event)),
        }
    }
}

impl Target {
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
