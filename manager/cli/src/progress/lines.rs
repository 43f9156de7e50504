//! A line for each step of each layer, as Docker prints where there is no terminal.

use std::collections::HashMap;

use keg_proto::keg::v1::LayerPhase;

use super::Step;
use super::step::{Heading, words};
use crate::humanize::short_id;

/// What has been said of each layer, so that nothing is said twice.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    heading: Heading,
    said: HashMap<String, LayerPhase>,
}

impl Lines {
    /// The lines that a message is worth; mostly none.
    pub(crate) fn of(&mut self, step: &Step) -> String {
        match step {
            Step::Pulling(_) | Step::Pushing(_) => self.heading.opening(step),
            Step::Pulled { .. } | Step::Pushed { .. } => self.heading.closing(step),
            Step::Layer(layer) => {
                let phase = layer.phase();
                if matches!(phase, LayerPhase::Extracting | LayerPhase::Unspecified) {
                    return String::new();
                }
                match self.said.insert(layer.digest.clone(), phase) {
                    Some(before) if before == phase => String::new(),
                    _ => format!("{}: {}\n", short_id(&layer.digest), words(phase)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keg_proto::keg::v1::{Descriptor, LayerProgress, PullResolved};

    fn layer(phase: LayerPhase, current: i64) -> Step {
        Step::Layer(LayerProgress {
            digest: "sha256:0123456789abcdef".to_owned(),
            phase: phase.into(),
            current,
            total: 10,
        })
    }

    #[test]
    fn a_pull_reads_like_dockers() {
        let target = Descriptor { digest: "sha256:feed".to_owned(), ..Descriptor::default() };
        let steps = [
            Step::Pulling(PullResolved {
                reference: "docker.io/library/busybox:1".to_owned(),
                target: Some(target),
                ..PullResolved::default()
            }),
            layer(LayerPhase::Downloading, 1),
            layer(LayerPhase::Downloading, 9),
            layer(LayerPhase::Downloaded, 10),
            layer(LayerPhase::Extracting, 1),
            layer(LayerPhase::Complete, 10),
            Step::Pulled { id: String::new(), up_to_date: false },
        ];

        let mut lines = Lines::default();
        let text: String = steps.iter().map(|step| lines.of(step)).collect();

        assert_eq!(
            text,
            "1: Pulling from library/busybox\n\
             0123456789ab: Downloading\n\
             0123456789ab: Download complete\n\
             0123456789ab: Pull complete\n\
             Digest: sha256:feed\n\
             Status: Downloaded newer image for busybox:1\n"
        );
    }
}
