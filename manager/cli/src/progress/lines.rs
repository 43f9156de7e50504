//! A line for each step of each layer, as Docker prints where there is no terminal.

use std::collections::HashMap;

use keg_proto::keg::v1::pull_image_response::Event;
use keg_proto::keg::v1::{LayerPhase, PullDone, PullResolved};

use crate::humanize::short_id;
use crate::reference;

/// What has been said of each layer, so that nothing is said twice.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    reference: String,
    digest: String,
    said: HashMap<String, LayerPhase>,
}

impl Lines {
    /// The lines that a message is worth; mostly none.
    pub(crate) fn of(&mut self, event: &Event) -> String {
        match event {
            Event::Resolved(resolved) => self.start(resolved),
            Event::Layer(layer) => {
                let words = match layer.phase() {
                    LayerPhase::Waiting => "Waiting",
                    LayerPhase::Downloading => "Downloading",
                    LayerPhase::Downloaded => "Download complete",
                    LayerPhase::Complete => "Pull complete",
                    LayerPhase::Exists => "Already exists",
                    LayerPhase::Retrying => "Retrying",
                    LayerPhase::Extracting | LayerPhase::Unspecified => return String::new(),
                };
                match self.said.insert(layer.digest.clone(), layer.phase()) {
                    Some(before) if before == layer.phase() => String::new(),
                    _ => format!("{}: {words}\n", short_id(&layer.digest)),
                }
            }
            Event::Done(done) => self.end(done),
        }
    }

    fn start(&mut self, resolved: &PullResolved) -> String {
        self.reference.clone_from(&resolved.reference);
        self.digest =
            resolved.target.as_ref().map(|target| target.digest.clone()).unwrap_or_default();
        opening(&resolved.reference)
    }

    fn end(&self, done: &PullDone) -> String {
        closing(&self.reference, &self.digest, done.up_to_date)
    }
}

/// What is said before the first layer.
pub(crate) fn opening(full_reference: &str) -> String {
    let parts = reference::split(full_reference);
    let version = parts.tag.or(parts.digest).unwrap_or("latest");
    let repository = parts.repository.strip_prefix("docker.io/").unwrap_or(parts.repository);
    format!("{version}: Pulling from {repository}\n")
}

/// What is said after the last layer.
pub(crate) fn closing(full_reference: &str, digest: &str, up_to_date: bool) -> String {
    let what = if up_to_date { "Image is up to date for" } else { "Downloaded newer image for" };
    let name = reference::familiar(full_reference);
    format!("Digest: {digest}\nStatus: {what} {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use keg_proto::keg::v1::{Descriptor, LayerProgress};

    fn layer(phase: LayerPhase, current: i64) -> Event {
        Event::Layer(LayerProgress {
            digest: "sha256:0123456789abcdef".to_owned(),
            phase: phase.into(),
            current,
            total: 10,
        })
    }

    #[test]
    fn a_pull_reads_like_dockers() {
        let target = Descriptor { digest: "sha256:feed".to_owned(), ..Descriptor::default() };
        let events = [
            Event::Resolved(PullResolved {
                reference: "docker.io/library/busybox:1".to_owned(),
                target: Some(target),
                layers: Vec::new(),
            }),
            layer(LayerPhase::Downloading, 1),
            layer(LayerPhase::Downloading, 9),
            layer(LayerPhase::Downloaded, 10),
            layer(LayerPhase::Extracting, 1),
            layer(LayerPhase::Complete, 10),
            Event::Done(PullDone { image: None, up_to_date: false }),
        ];

        let mut lines = Lines::default();
        let text: String = events.iter().map(|event| lines.of(event)).collect();

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
