//! Why a build failed.

use std::borrow::Cow;
use std::io;

use keg_engine::EngineError;
use keg_engine::layered_root::LayerError;
use keg_engine::users::UserError;
use keg_image::diff::DiffError;
use keg_image::{ImageError, LayerError as BlobError, PullError, PushError, ReferenceError};
use keg_store::{
    CollectError, ContentError, ErrorClass, Explain, MetadataError, Reason, SnapshotError,
    io_reason,
};

use crate::dockerfile::{ParseError, WordError};
use crate::git::GitAddressError;
use crate::ignore::IgnoreError;
use crate::layout::LayoutError;
use crate::session::SessionError;
use crate::tree::TreeError;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile cannot be read.
    #[error("the Dockerfile cannot be read")]
    Parse {
        /// Why.
        #[source]
        source: ParseError,
    },
    /// The `.dockerignore` cannot be read.
    #[error("the .dockerignore cannot be read")]
    Ignore {
        /// Why.
        #[source]
        source: IgnoreError,
    },
    /// A pattern of an instruction cannot be read.
    #[error("the pattern {pattern:?} cannot be read")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        #[source]
        source: IgnoreError,
    },
    /// An instruction failed.
    #[error("{instruction} (line {line})")]
    At {
        /// The instruction, in short.
        instruction: String,
        /// Its first line.
        line: usize,
        /// Why.
        #[source]
        source: Box<BuildError>,
    },
    /// Variables in it cannot be replaced.
    #[error("its variables cannot be replaced")]
    Words {
        /// Why.
        #[source]
        source: WordError,
    },
    /// It makes no sense once its variables are known.
    #[error("{problem}")]
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// The address of a repository cannot be read.
    #[error("{address:?} names no repository")]
    Repository {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: GitAddressError,
    },
    /// A command failed.
    #[error("the command ended with exit code {code}")]
    Exit {
        /// Its exit code.
        code: u32,
    },
    /// Nothing of that name is there to be copied.
    #[error("{path:?} is not in the source{}", if *.is_ignored { ": .dockerignore leaves it out" } else { "" })]
    NoSource {
        /// The path.
        path: String,
        /// Whether a pattern hides it.
        is_ignored: bool,
    },
    /// Links in a context lead in a circle.
    #[error("too many symbolic links in {path:?}")]
    LinkLoop {
        /// The path.
        path: String,
    },
    /// More files than a context may have.
    #[error("the context has more than {limit} files")]
    ContextTooLarge {
        /// The limit.
        limit: usize,
    },
    /// There is no such stage.
    #[error("there is no stage {name:?}")]
    NoStage {
        /// Its name.
        name: String,
    },
    /// A stage needs itself.
    #[error("the stage {name:?} needs itself")]
    Circle {
        /// Its name.
        name: String,
    },
    /// A stage failed that another needs.
    #[error("stage {name:?} failed")]
    Stage {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: std::sync::Arc<BuildError>,
    },
    /// What a stage failed with, which others may wait for too.
    #[error(transparent)]
    Shared(std::sync::Arc<BuildError>),
    /// A secret that the client does not have.
    #[error("the step needs the secret {id:?}, and the client offers none of that id")]
    NoSecret {
        /// Its id.
        id: String,
    },
    /// An SSH agent that the client does not offer.
    #[error("the step needs an SSH agent {id:?}, and the client offers none")]
    NoAgent {
        /// Its id.
        id: String,
    },
    /// A right that the client did not give.
    #[error("the step asks for {what}, which was not allowed")]
    NotAllowed {
        /// `security.insecure` or `network.host`.
        what: &'static str,
    },
    /// The base image cannot be had.
    #[error("the base image {image} cannot be pulled")]
    Pull {
        /// Its name.
        image: String,
        /// Why.
        #[source]
        source: Box<PullError>,
    },
    /// A named context is an OCI layout that cannot be used.
    #[error("the image in the context {context:?} cannot be used")]
    Layout {
        /// Name of the context.
        context: String,
        /// Why.
        #[source]
        source: Box<LayoutError>,
    },
    /// A name of an image is malformed.
    #[error("{name:?} names neither a stage nor an image")]
    Reference {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// An image here cannot be used.
    #[error("an image cannot be used")]
    Image {
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
    /// A user or group of `--chown` or `USER` cannot be had.
    #[error("the user cannot be found")]
    User {
        /// Why.
        #[source]
        source: UserError,
    },
    /// The layers cannot be read.
    #[error("the image's files cannot be read")]
    Layers {
        /// Why.
        #[source]
        source: LayerError,
    },
    /// Files cannot be read or written.
    #[error("files cannot be copied")]
    Tree {
        /// Why.
        #[from]
        source: TreeError,
    },
    /// A file of the builder's own cannot be read or written.
    #[error("cannot {operation}")]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A step could not be run.
    #[error("the step cannot be run")]
    Engine {
        /// Why.
        #[source]
        source: Box<EngineError>,
    },
    /// A layer could not be made of what a step changed.
    #[error("the step's changes cannot become a layer")]
    Diff {
        /// Why.
        #[source]
        source: DiffError,
    },
    /// An archive cannot be unpacked.
    #[error("the archive cannot be unpacked")]
    Archive {
        /// Why.
        #[source]
        source: Box<keg_image::extract::ExtractError>,
    },
    /// The image's documents cannot be stored.
    #[error("the image cannot be stored")]
    Write {
        /// Why.
        #[source]
        source: Box<keg_image::NewLayerError>,
    },
    /// The store failed.
    #[error("the store failed")]
    Content {
        /// How.
        #[from]
        source: ContentError,
    },
    /// The store failed.
    #[error("the store failed")]
    Snapshot {
        /// How.
        #[from]
        source: SnapshotError,
    },
    /// The store failed.
    #[error("the store failed")]
    Metadata {
        /// How.
        #[from]
        source: MetadataError,
    },
    /// What is not needed any more could not be removed.
    #[error("what is not needed any more could not be removed")]
    Collect {
        /// Why.
        #[source]
        source: CollectError,
    },
    /// The client failed.
    #[error("{}", match .source {
        SessionError::Unstored { .. } => "what the client sends cannot be stored",
        _ => "the client failed",
    })]
    Session {
        /// Why.
        #[source]
        source: SessionError,
    },
    /// The client answered something else than it was asked.
    #[error("the client broke the protocol: {what}")]
    ClientProtocol {
        /// What it did.
        what: &'static str,
    },
    /// Something could not be fetched.
    #[error("{url} cannot be fetched")]
    Fetch {
        /// From where.
        url: String,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// What was fetched is not what was promised.
    #[error("{url} has the checksum {found}, not {wanted}")]
    Checksum {
        /// From where.
        url: String,
        /// What was promised.
        wanted: String,
        /// What came.
        found: String,
    },
    /// A base image that is here is for another platform, and the right one cannot be pulled.
    #[error(
        "the base image {image} here is for {found}, and the one for {wanted} cannot be pulled"
    )]
    BasePlatform {
        /// Its name.
        image: String,
        /// Platform of the one that is here.
        found: String,
        /// Platform that is needed.
        wanted: String,
        /// Why.
        #[source]
        source: Box<PullError>,
    },
    /// A command for processors that this machine does not have.
    #[error("a command for {platform} cannot be run on this machine, which is {host}")]
    NoEmulator {
        /// What the command is for.
        platform: String,
        /// What the machine is.
        host: String,
        /// The name of such an emulator.
        emulator: &'static str,
    },
    /// Checks found something, and the file says that this is an error.
    #[error("the Dockerfile says check=error=true, and {count} of its checks fail")]
    Findings {
        /// How many.
        count: usize,
    },
    /// No snapshot could be had.
    #[error("there is no snapshot for the step")]
    NoSnapshot,
    /// Results could not be put where other machines find them.
    #[error("the build cache cannot be exported to {place}")]
    CacheExport {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: Box<PushError>,
    },
    /// A layer of another machine's cache cannot be had.
    #[error("a layer of the build cache cannot be used")]
    CacheLayer {
        /// Why.
        #[source]
        source: Box<BlobError>,
    },
    /// A scanner broke its protocol.
    #[error("the scanner {scanner}: {problem}")]
    Scanner {
        /// Its image.
        scanner: String,
        /// What it did.
        problem: String,
    },
    /// No ids are left for steps.
    #[error("the daemon has no id range for builds")]
    NoIdRange,
    /// A bug.
    #[error("a part of the build panicked")]
    Panicked {
        /// How it ended.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server or the way to it.
    #[error("the request failed")]
    Http(#[source] reqwest::Error),
    /// The server has it not, or does not give it.
    #[error("the server answered {status}")]
    Status {
        /// Its answer.
        status: u16,
    },
    /// A program that is needed cannot be run.
    #[error("cannot run {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {complaint}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// What it wrote.
        complaint: String,
    },
    /// It cannot be stored.
    #[error("it cannot be stored")]
    Store(#[source] io::Error),
}

impl BuildError {
    /// Makes an instruction's failure of a cause.
    pub(crate) fn at(self, instruction: &str, line: usize) -> Self {
        match self {
            Self::At { .. } => self,
            other => Self::At { instruction: shorten(instruction), line, source: Box::new(other) },
        }
    }

    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }

    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Pull { source, .. } => Some(source.as_ref()),
            Self::CacheExport { source, .. } => Some(source.as_ref()),
            Self::CacheLayer { source } => Some(source.as_ref()),
            Self::Image { source } => Some(source.as_ref()),
            Self::Engine { source } => Some(source.as_ref()),
            Self::Diff { source } => Some(source),
            Self::Archive { source } => Some(source.as_ref()),
            Self::Write { source } => Some(source.as_ref()),
            Self::Content { source } => Some(source),
            Self::Snapshot { source } => Some(source),
            Self::Metadata { source } => Some(source),
            Self::Collect { source } => Some(source),
            Self::Reference { source, .. } => Some(source),
            Self::At { source, .. } => Some(source.as_ref()),
            Self::Stage { source, .. } | Self::Shared(source) => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// The first line of an instruction, not too long.
pub(crate) fn shorten(instruction: &str) -> String {
    const LONGEST: usize = 80;
    let line = instruction.lines().next().unwrap_or_default();
    if line.chars().count() <= LONGEST {
        return line.to_owned();
    }
    line.chars().take(LONGEST - 1).chain(['…']).collect()
}

impl Explain for BuildError {
    fn reason(&self) -> Reason {
        match self {
            Self::Session { source: SessionError::Unstored { is_full, .. } } => match is_full {
                true => Reason::OutOfSpace,
                false => Reason::StoreFailed,
            },
            Self::Parse { .. }
            | Self::Ignore { .. }
            | Self::Pattern { .. }
            | Self::Words { .. }
            | Self::Malformed { .. }
            | Self::Repository { .. }
            | Self::NoSource { .. }
            | Self::LinkLoop { .. }
            | Self::ContextTooLarge { .. }
            | Self::NoStage { .. }
            | Self::Circle { .. }
            | Self::NoSecret { .. }
            | Self::NoAgent { .. }
            | Self::NotAllowed { .. }
            | Self::User { .. }
            | Self::Findings { .. }
            | Self::Layout { .. }
            | Self::Session { .. }
            | Self::ClientProtocol { .. } => Reason::InvalidArgument,
            Self::Exit { .. } => Reason::RuntimeFailed,
            Self::Checksum { .. } => Reason::DigestMismatch,
            Self::Fetch { .. } => Reason::RegistryUnreachable,
            Self::NoIdRange | Self::NoEmulator { .. } => Reason::UnsupportedByHost,
            Self::BasePlatform { .. } | Self::Scanner { .. } => Reason::InvalidArgument,
            Self::NoSnapshot => Reason::StoreFailed,
            Self::Io { source, .. } => io_reason(source),
            Self::Tree { source } => match source.errno() {
                Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Reason::OutOfSpace,
                Some(_) => Reason::StoreFailed,
                None => Reason::InvalidArgument,
            },
            Self::Layers { .. } => Reason::StoreFailed,
            _ => self.cause().map_or(Reason::Internal, Explain::reason),
        }
    }

    fn class(&self) -> ErrorClass {
        self.cause().map_or_else(|| self.reason().class(), Explain::class)
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Exit { .. } => {
                "see what it wrote above, or enter the container as it was: add --debug-shell"
                    .into()
            }
            Self::NoSource { is_ignored: true, .. } => {
                "add an exception to .dockerignore: a line with ! and the path".into()
            }
            Self::NoSource { .. } => {
                "give a path relative to the context, the directory at the end of `keg build`"
                    .into()
            }
            Self::NoStage { .. } => "name one of the Dockerfile's stages (FROM … AS NAME)".into(),
            Self::Layout { .. } => {
                "see what index.json has in it, and name it by oci-layout://DIRECTORY:TAG".into()
            }
            Self::NoSecret { id } => format!("give it by --secret id={id},src=FILE").into(),
            Self::NoAgent { id } => format!("start ssh-agent, and give --ssh {id}").into(),
            Self::NotAllowed { what } => {
                format!("give --allow {what} if you trust the file").into()
            }
            Self::BasePlatform { .. } => {
                "name a base image that exists for that platform, or build for the one that is here"
                    .into()
            }
            Self::NoEmulator { emulator, .. } => format!(
                "install an emulator: {emulator} with binfmt_misc and its flag F (Debian: \
                 qemu-user-static); or run the command in a stage FROM --platform=$BUILDPLATFORM"
            )
            .into(),
            Self::Findings { .. } => {
                "see the warnings; leave a check out by # check=skip=NAME;error=true".into()
            }
            Self::NoIdRange => "raise id_ranges.ranges in kegd.toml to 2 at least".into(),
            Self::Fetch { source: FetchError::Program { program, .. }, .. } => {
                format!("install {program} where kegd runs").into()
            }
            Self::Fetch { .. } => "see whether the address is right, and can be reached".into(),
            Self::Checksum { .. } => "see who changed it, or correct --checksum".into(),
            Self::Tree { .. } | Self::Io { .. } | Self::Session { .. }
                if self.reason() == Reason::OutOfSpace =>
            {
                "free space on the file system of --root: `keg builder prune`, `keg image prune`"
                    .into()
            }
            _ => return self.cause().and_then(Explain::remedy),
        })
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        self.cause().map(Explain::operands).unwrap_or_default()
    }
}
