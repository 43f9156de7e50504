//! A bar for each layer, on a terminal.

use std::collections::HashMap;
use std::fmt::Write as _;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use keg_proto::keg::v1::{Descriptor, LayerPhase, LayerProgress};

use super::step::{Heading, words};
use super::{Step, Target};
use crate::failure::Failure;
use crate::humanize::{short_id, size};

/// A layer on its way: how much of it is here, how fast it comes, how long it will take.
const MOVING: &str = "{prefix}: {msg:11} [{bar:30.cyan/blue}] {done:>7}/{all:<7} {rate:>9}  {eta}";

/// A layer at rest.
const RESTING: &str = "{prefix}: {msg}";

/// Characters of a bar: done, at work, to come.
const BAR: &str = "=> ";

/// The bars of one transfer, in the order of the image's layers.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    target: Target,
    /// Digests of the layers, lowest first.
    order: Vec<String>,
    layers: HashMap<String, Layer>,
    heading: Heading,
}

#[derive(Debug)]
struct Layer {
    bar: ProgressBar,
    phase: LayerPhase,
}

impl Bars {
    /// Starts with nothing.
    pub(crate) fn new(target: Target) -> Self {
        let drawn_on = match target {
            Target::Stdout => ProgressDrawTarget::stdout(),
            Target::Stderr => ProgressDrawTarget::stderr(),
        };
        Self {
            all: MultiProgress::with_draw_target(drawn_on),
            target,
            order: Vec::new(),
            layers: HashMap::new(),
            heading: Heading::default(),
        }
    }

    /// Shows one message.
    ///
    /// # Errors
    /// A [`Failure`] if the outcome cannot be written.
    pub(crate) fn show(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Pulling(resolved) => self.start(step, &resolved.layers),
            Step::Pushing(started) => self.start(step, &started.layers),
            Step::Layer(progress) => self.advance(progress),
            Step::Pulled { .. } | Step::Pushed { .. } => return self.end(step),
        }
        Ok(())
    }

    /// Leaves plain lines in place of the bars, so that what follows stands below them.
    fn end(&self, step: &Step) -> Result<(), Failure> {
        self.clear();
        let mut text = String::new();
        for digest in &self.order {
            let phase =
                self.layers.get(digest).map_or(LayerPhase::Unspecified, |layer| layer.phase);
            text.push_str(&format!("{}: {}\n", short_id(digest), words(phase)));
        }
        text.push_str(&self.heading.closing(step));
        self.target.write(&text)
    }

    /// Takes the bars off the terminal; one that is gone has none.
    fn clear(&self) {
        let _ = self.all.clear();
    }

    fn start(&mut self, step: &Step, layers: &[Descriptor]) {
        let opening = self.heading.opening(step);
        self.say(&opening);
        for Descriptor { digest, size, .. } in layers {
            self.add(digest, *size);
        }
    }

    /// Writes lines above the bars. What cannot be shown on a terminal that is gone is lost.
    fn say(&self, text: &str) {
        for line in text.lines() {
            let _ = self.all.println(line);
        }
    }

    fn add(&mut self, digest: &str, size_bytes: i64) {
        // Complete before it is added: a bar is drawn from then on.
        let bar = ProgressBar::with_draw_target(
            u64::try_from(size_bytes).ok(),
            ProgressDrawTarget::hidden(),
        )
        .with_style(style(RESTING))
        .with_prefix(short_id(digest).to_owned())
        .with_message(words(LayerPhase::Waiting));
        let bar = self.all.add(bar);
        self.order.push(digest.to_owned());
        self.layers.insert(digest.to_owned(), Layer { bar, phase: LayerPhase::Waiting });
    }

    fn advance(&mut self, progress: &LayerProgress) {
        if !self.layers.contains_key(&progress.digest) {
            self.add(&progress.digest, progress.total);
        }
        let Some(layer) = self.layers.get_mut(&progress.digest) else {
            return;
        };
        let phase = progress.phase();
        if phase != layer.phase {
            layer.phase = phase;
            layer.enter(phase);
        }
        if let (true, Ok(total), Ok(current)) =
            (is_moving(phase), u64::try_from(progress.total), u64::try_from(progress.current))
        {
            layer.bar.set_length(total.max(current));
            layer.bar.set_position(current);
        }
    }
}

impl Drop for Bars {
    /// A pull that fails leaves no bars between the prompt and what went wrong.
    fn drop(&mut self) {
        self.clear();
    }
}

impl Layer {
    /// Changes the look of a layer's line for another phase.
    fn enter(&self, phase: LayerPhase) {
        let bar = &self.bar;
        match phase {
            _ if is_moving(phase) => {
                bar.set_style(style(MOVING));
                bar.reset();
                bar.set_message(words(phase));
            }
            LayerPhase::Complete
            | LayerPhase::Exists
            | LayerPhase::Uploaded
            | LayerPhase::Mounted => {
                bar.set_style(style(RESTING));
                bar.finish_with_message(words(phase));
            }
            _ => {
                bar.set_style(style(RESTING));
                bar.set_message(words(phase));
            }
        }
    }
}

/// Whether bytes are moved in a phase.
fn is_moving(phase: LayerPhase) -> bool {
    matches!(phase, LayerPhase::Downloading | LayerPhase::Extracting | LayerPhase::Uploading)
}

/// A style whose amounts read like all others of ours.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars(BAR)
        .with_key("done", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            put(out, &size(state.pos()));
        })
        .with_key("all", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            put(out, &size(state.len().unwrap_or(0)));
        })
        .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            put(out, &format!("{}/s", size(whole(state.per_sec()))));
        })
}

/// Writes into a line under construction, which cannot fail.
fn put(out: &mut dyn std::fmt::Write, text: &str) {
    let _ = out.write_str(text);
}

/// A rate without its fraction.
fn whole(rate: f64) -> u64 {
    let mut text = String::new();
    let _ = write!(text, "{rate:.0}");
    text.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_are_valid_templates() {
        for template in [MOVING, RESTING] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn rates_lose_their_fraction_only() {
        assert_eq!(whole(1234.6), 1235);
        assert_eq!(whole(f64::NAN), 0);
    }
}
