//! What the messages of all transfers have in common.

use keg_proto::keg::v1::pull_image_response::Event as Pulled;
use keg_proto::keg::v1::push_image_response::Event as Pushed;
use keg_proto::keg::v1::{
    Descriptor, LayerPhase, LayerProgress, PullResolved, PushStarted, RateLimit,
};

use crate::{humanize, reference};

/// One message of a transfer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// A pull knows what it fetches.
    Pulling(PullResolved),
    /// A push knows what it sends.
    Pushing(PushStarted),
    /// A layer moved on.
    Layer(LayerProgress),
    /// A pull is done.
    Pulled {
        /// Id of the image.
        id: String,
        /// Whether it was here before.
        up_to_date: bool,
    },
    /// A push is done.
    Pushed {
        /// What the name stands for in the registry.
        target: Descriptor,
        /// Platforms that were not sent.
        missing: Vec<String>,
    },
}

impl From<Pulled> for Step {
    fn from(event: Pulled) -> Self {
        match event {
            Pulled::Resolved(resolved) => Self::Pulling(resolved),
            Pulled::Layer(layer) => Self::Layer(layer),
            Pulled::Done(done) => Self::Pulled {
                id: done.image.map(|image| image.id).unwrap_or_default(),
                up_to_date: done.up_to_date,
            },
        }
    }
}

impl From<Pushed> for Step {
    fn from(event: Pushed) -> Self {
        match event {
            Pushed::Started(started) => Self::Pushing(started),
            Pushed::Layer(layer) => Self::Layer(layer),
            Pushed::Done(done) => Self::Pushed {
                target: done.target.unwrap_or_default(),
                missing: done.missing.iter().map(crate::options::platform::text).collect(),
            },
        }
    }
}

/// What was said at a transfer's beginning and is needed again at its end.
#[derive(Debug, Default)]
pub(crate) struct Heading {
    reference: String,
    digest: String,
    limit: Option<RateLimit>,
}

/// Pulls that must be left for nothing to be said of it.
const FEW_LEFT: i64 = 10;

impl Heading {
    /// The line that a transfer begins with.
    pub(crate) fn opening(&mut self, step: &Step) -> String {
        match step {
            Step::Pulling(resolved) => {
                self.reference.clone_from(&resolved.reference);
                self.digest = resolved.target.clone().unwrap_or_default().digest;
                self.limit = resolved.limit;
                let parts = reference::split(&resolved.reference);
                let version = parts.tag.or(parts.digest).unwrap_or("latest");
                let repository = parts.repository;
                let repository = repository.strip_prefix("docker.io/").unwrap_or(repository);
                format!("{version}: Pulling from {repository}\n")
            }
            Step::Pushing(started) => {
                self.reference.clone_from(&started.reference);
                let repository = reference::split(&started.reference).repository;
                format!("The push refers to repository [{repository}]\n")
            }
            Step::Layer(_) | Step::Pulled { .. } | Step::Pushed { .. } => String::new(),
        }
    }

    /// The lines that a transfer ends with.
    pub(crate) fn closing(&self, step: &Step) -> String {
        match step {
            Step::Pulled { up_to_date, .. } => {
                let what = match up_to_date {
                    true => "Image is up to date for",
                    false => "Downloaded newer image for",
                };
                let name = reference::familiar(&self.reference);
                let mut text = format!("Digest: {}\nStatus: {what} {name}\n", self.digest);
                if let Some(limit) = self.limit.filter(|limit| limit.remaining <= FEW_LEFT) {
                    let registry = reference::registry(&self.reference);
                    text += &format!("Note: {registry} lets you {}\n", left(&limit));
                }
                text
            }
            Step::Pushed { target, missing } => {
                let parts = reference::split(&self.reference);
                let version = parts.tag.or(parts.digest).unwrap_or("latest");
                let mut text =
                    format!("{version}: digest: {} size: {}\n", target.digest, target.size);
                if !missing.is_empty() {
                    text += &format!("Not here, and so not pushed: {}\n", missing.join(", "));
                }
                text
            }
            Step::Pulling(_) | Step::Pushing(_) | Step::Layer(_) => String::new(),
        }
    }
}

/// How much a registry still lets be pulled.
fn left(limit: &RateLimit) -> String {
    let images = if limit.remaining == 1 { "image" } else { "images" };
    let mut text = format!("pull {} more {images}", limit.remaining);
    if limit.window_secs > 0 {
        text += &format!(" within {}", humanize::duration(limit.window_secs).to_lowercase());
    }
    text
}

/// What a phase is called.
pub(crate) fn words(phase: LayerPhase) -> &'static str {
    match phase {
        LayerPhase::Waiting | LayerPhase::Unspecified => "Waiting",
        LayerPhase::Downloading => "Downloading",
        LayerPhase::Downloaded => "Download complete",
        LayerPhase::Extracting => "Extracting",
        LayerPhase::Complete => "Pull complete",
        LayerPhase::Exists => "Already exists",
        LayerPhase::Retrying => "Retrying",
        LayerPhase::Uploading => "Pushing",
        LayerPhase::Uploaded => "Pushed",
        LayerPhase::Mounted => "Mounted from another repository",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_lets_little_more_be_pulled_is_told_of() {
        let closing = |remaining| {
            let mut heading = Heading::default();
            let limit = Some(RateLimit { remaining, limit: 100, window_secs: 21_600 });
            let reference = "docker.io/library/a:1".to_owned();
            let resolved = PullResolved { reference, limit, ..PullResolved::default() };
            heading.opening(&Step::Pulling(resolved));
            heading.closing(&Step::Pulled { id: String::new(), up_to_date: true })
        };

        let note = "Note: docker.io lets you pull 3 more images within 6 hours\n";
        assert!(closing(3).ends_with(note), "{}", closing(3));
        assert!(!closing(76).contains("Note"));
    }

    #[test]
    fn a_push_reads_like_dockers() {
        let started =
            PushStarted { reference: "localhost:5000/a/b:1".to_owned(), layers: Vec::new() };
        let target =
            Descriptor { digest: "sha256:feed".to_owned(), size: 527, ..Descriptor::default() };
        let mut heading = Heading::default();

        let opening = heading.opening(&Step::Pushing(started));
        let closing = heading.closing(&Step::Pushed { target, missing: Vec::new() });

        assert_eq!(opening, "The push refers to repository [localhost:5000/a/b]\n");
        assert_eq!(closing, "1: digest: sha256:feed size: 527\n");
    }
}
