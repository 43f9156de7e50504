//! Why the engine did not do what it was asked.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use keg_image::{CommitError, ImageError};
use keg_network::{CniError, NetworkError, UnknownNetwork};
use keg_store::{ErrorClass, Explain, MetadataError, Reason, SnapshotError, io_reason};

use crate::devices::DeviceError;
use crate::files::FilesError;
use crate::id::InvalidId;
use crate::layered_root::LayerError;
use crate::log::LogError;
use crate::process_plan::PlanError;
use crate::shim::exit_record::ExitRecordError;
use crate::shim::io::IoError;
use crate::shim::{LaunchError, TaskError};
use crate::signal::UnknownSignal;
use crate::spec::SpecError;
use crate::top::PsError;
use crate::users::UserError;
use crate::volumes::VolumeError;

/// Why an operation on a container failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container has that name, id or beginning of an id.
    #[error("no such container: {name}")]
    NoSuchContainer {
        /// What was asked for.
        name: String,
    },
    /// Several containers have ids that begin so.
    #[error("{prefix:?} is the beginning of the ids of several containers")]
    AmbiguousId {
        /// What was asked for.
        prefix: String,
    },
    /// A name or an id is malformed.
    #[error(transparent)]
    InvalidId(InvalidId),
    /// A signal is malformed.
    #[error(transparent)]
    UnknownSignal(UnknownSignal),
    /// A network is unknown.
    #[error(transparent)]
    UnknownNetwork(UnknownNetwork),
    /// A field of a request is malformed.
    #[error("{field}: {problem}")]
    InvalidField {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The image could not be had.
    #[error(transparent)]
    Image(Box<ImageError>),
    /// Image and request do not make a process.
    #[error(transparent)]
    Plan(PlanError),
    /// The specification cannot be written.
    #[error(transparent)]
    Spec(SpecError),
    /// The user cannot be looked up.
    #[error("container {container}: its user cannot be had")]
    User {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: UserError,
    },
    /// The files that the user is looked up in cannot be read.
    #[error("container {container}: its account files cannot be read")]
    Layers {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A path of the host that is to be mounted is not there.
    #[error("the path {path:?} that is to be mounted cannot be used")]
    BindSource {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It runs, and must not.
    #[error("container {container} is running")]
    Running {
        /// The container.
        container: String,
    },
    /// It does not run, and must.
    #[error("container {container} is not running: it is {state}")]
    NotRunning {
        /// The container.
        container: String,
        /// Where it is instead.
        state: &'static str,
    },
    /// What it writes is kept nowhere.
    #[error("container {container} has no log: it was made with --log-driver none")]
    NoLog {
        /// The container.
        container: String,
    },
    /// The host's `ps` could not list its processes.
    #[error("cannot list processes by the options that were given")]
    Ps(#[source] PsError),
    /// It is frozen.
    #[error("container {container} is paused")]
    Paused {
        /// The container.
        container: String,
    },
    /// It is not frozen.
    #[error("container {container} is not paused")]
    NotPaused {
        /// The container.
        container: String,
    },
    /// Another call takes it away.
    #[error("container {container} is being removed")]
    BeingRemoved {
        /// The container.
        container: String,
    },
    /// It cannot be used any more.
    #[error("container {container} is dead: {problem}")]
    Dead {
        /// The container.
        container: String,
        /// Why.
        problem: String,
    },
    /// The runtime could not start it.
    #[error("container {container} could not be started: {complaint}")]
    Runtime {
        /// The container.
        container: String,
        /// What the runtime said.
        complaint: String,
        /// What it was, for programs.
        reason: Reason,
    },
    /// The runtime would not do something else with one that runs.
    #[error("container {container}: {action}: {complaint}")]
    Refused {
        /// The container.
        container: String,
        /// What could not be done, as a sentence.
        action: &'static str,
        /// What the runtime said.
        complaint: String,
        /// What it was, for programs.
        reason: Reason,
    },
    /// The shim could not be run.
    #[error("the shim of container {container} could not be run")]
    Launch {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: LaunchError,
    },
    /// The shim did not do what it was asked.
    #[error("the shim of container {container} failed")]
    Task {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: TaskError,
    },
    /// The streams of the process cannot be had.
    #[error("the streams of container {container} cannot be had")]
    Streams {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: IoError,
    },
    /// Something took too long.
    #[error("container {container} did not {what} within {secs} s")]
    Timeout {
        /// The container.
        container: String,
        /// What it did not do.
        what: &'static str,
        /// How long it was waited for.
        secs: u64,
    },
    /// The container's files cannot be had.
    #[error("container {container}")]
    Files {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: FilesError,
    },
    /// The container could not be made an image.
    #[error(transparent)]
    Commit(Box<CommitError>),
    /// The log cannot be read.
    #[error("the log of container {container} cannot be read")]
    Log {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: LogError,
    },
    /// The exit record cannot be read.
    #[error(transparent)]
    ExitRecord(ExitRecordError),
    /// Something could not be done with a volume.
    #[error(transparent)]
    Volume(Box<VolumeError>),
    /// Something about networks.
    #[error(transparent)]
    Network(Box<NetworkError>),
    /// A container could not be connected to a network.
    #[error("container {container} could not be connected to network {network}")]
    Connect {
        /// The container.
        container: String,
        /// The network.
        network: String,
        /// Why.
        #[source]
        source: Box<NetworkError>,
    },
    /// This host or this daemon has no networks.
    #[error("there are no networks here, but \"none\" and \"host\"")]
    NoNetworks {
        /// Why.
        #[source]
        source: Arc<NetworkError>,
    },
    /// The container whose network namespace another is to have does not run.
    #[error("container {container} cannot have the network of {other}, which does not run")]
    NetworkOwnerStopped {
        /// The container.
        container: String,
        /// Whose network it is to have.
        other: String,
    },
    /// A device cannot be had.
    #[error("container {container}: a device cannot be had")]
    Device {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: Box<DeviceError>,
    },
    /// It asks for an init, and there is none.
    #[error("container {container} asks for an init, and keg-init is not installed")]
    NoInit {
        /// The container.
        container: String,
    },
    /// Its runtime would mount volumes without the id map that makes their owners right.
    #[error(
        "container {container}: runtime {runtime:?} cannot map the owners of files, as {target:?} wants \
         in a user namespace"
    )]
    NoIdMaps {
        /// The container.
        container: String,
        /// Where the mount goes.
        target: PathBuf,
        /// The runtime.
        runtime: PathBuf,
    },
    /// A container whose namespaces it is to share does not run.
    #[error("container {container} shares namespaces with container {other}, which does not run")]
    OtherNotRunning {
        /// The container.
        container: String,
        /// The one that has them.
        other: String,
    },
    /// The database refused.
    #[error(transparent)]
    Metadata(MetadataError),
    /// The snapshotter refused.
    #[error(transparent)]
    Snapshot(SnapshotError),
    /// A file of the daemon's own could not be used.
    #[error("cannot {action} {path:?}")]
    File {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A record in the database is not what this version writes.
    #[error("the record of container {container} is damaged")]
    DamagedRecord {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A task of the daemon died.
    #[error("the daemon failed at its own work on {what}")]
    Panicked {
        /// At what.
        what: &'static str,
        /// How.
        #[source]
        source: tokio::task::JoinError,
    },
}

impl EngineError {
    /// The exit code by which `docker run` tells such a failure of a start: 127 if the command is
    /// not there, 126 if it cannot be executed, else 125, the engine's own.
    pub fn exit_code(&self) -> u32 {
        match self.reason() {
            Reason::CommandNotFound => 127,
            Reason::CommandNotExecutable => 126,
            _ => 125,
        }
    }

    /// The same, if it was not the start that the runtime refused, but something else.
    #[must_use]
    pub(crate) fn refused(self, action: &'static str) -> Self {
        match self {
            Self::Runtime { container, complaint, reason } => {
                Self::Refused { container, action, complaint, reason }
            }
            other => other,
        }
    }

    /// The text with all its causes.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<MetadataError> for EngineError {
    fn from(error: MetadataError) -> Self {
        Self::Metadata(error)
    }
}

impl From<SnapshotError> for EngineError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error)
    }
}

impl From<VolumeError> for EngineError {
    fn from(error: VolumeError) -> Self {
        Self::Volume(Box::new(error))
    }
}

impl From<NetworkError> for EngineError {
    fn from(error: NetworkError) -> Self {
        Self::Network(Box::new(error))
    }
}

impl From<CniError> for EngineError {
    fn from(error: CniError) -> Self {
        NetworkError::from(error).into()
    }
}

impl From<ImageError> for EngineError {
    fn from(error: ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl Explain for EngineError {
    fn reason(&self) -> Reason {
        match self {
            Self::NoSuchContainer { .. } => Reason::ContainerNotFound,
            Self::AmbiguousId { .. } => Reason::AmbiguousId,
            Self::Plan(PlanError::NoCommand { .. }) => Reason::NoCommand,
            Self::Ps(PsError::Execute(_)) => Reason::UnsupportedByHost,
            Self::InvalidId(_)
            | Self::NoLog { .. }
            | Self::Ps(_)
            | Self::UnknownSignal(_)
            | Self::UnknownNetwork(_)
            | Self::InvalidField { .. }
            | Self::Plan(_)
            | Self::Spec(_)
            | Self::User { .. } => Reason::InvalidArgument,
            Self::Image(error) => error.reason(),
            Self::Network(error) | Self::Connect { source: error, .. } => error.reason(),
            Self::NoNetworks { .. } => Reason::UnsupportedByHost,
            Self::NetworkOwnerStopped { .. } => Reason::ContainerNotRunning,
            Self::Layers { .. } => Reason::ImageMalformed,
            Self::BindSource { .. } => Reason::HostPath,
            Self::Running { .. } => Reason::ContainerRunning,
            Self::NotRunning { .. }
            | Self::OtherNotRunning { .. }
            | Self::Paused { .. }
            | Self::NotPaused { .. }
            | Self::Dead { .. } => Reason::ContainerNotRunning,
            Self::BeingRemoved { .. } => Reason::ContainerBeingRemoved,
            Self::Runtime { reason, .. } | Self::Refused { reason, .. } => *reason,
            Self::Launch { source: LaunchError::Bundle { source, .. }, .. }
            | Self::File { source, .. } => io_reason(source),
            Self::Launch { .. } | Self::Task { .. } | Self::Streams { .. } => Reason::ShimFailed,
            Self::Files { source, .. } => source.reason(),
            Self::Commit(error) => error.reason(),
            Self::NoInit { .. } | Self::NoIdMaps { .. } => Reason::UnsupportedByHost,
            Self::Device { .. } => Reason::HostPath,
            Self::Timeout { .. } => Reason::Timeout,
            Self::Log { source, .. } => io_reason(&source.source),
            Self::Volume(error) => error.reason(),
            Self::Metadata(error) => error.reason(),
            Self::Snapshot(error) => error.reason(),
            Self::ExitRecord(_) | Self::DamagedRecord { .. } => Reason::StoreFailed,
            Self::Panicked { .. } => Reason::Internal,
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Image(error) => error.class(),
            Self::Network(error) | Self::Connect { source: error, .. } => error.class(),
            Self::Commit(error) => error.class(),
            Self::Metadata(error) => error.class(),
            Self::Snapshot(error) => error.class(),
            _ => self.reason().class(),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        let text = match self {
            Self::Image(error) => return error.remedy(),
            Self::Commit(error) => return error.remedy(),
            Self::Files { source, .. } => return source.remedy(),
            Self::Volume(error) => return error.remedy(),
            Self::Network(error) | Self::Connect { source: error, .. } => return error.remedy(),
            Self::NoNetworks { source } => return source.remedy(),
            Self::NetworkOwnerStopped { .. } => "start that container first",
            Self::Metadata(error) => return error.remedy(),
            Self::Snapshot(error) => return error.remedy(),
            Self::NoSuchContainer { .. } => "list the containers with `keg ps -a`",
            Self::AmbiguousId { .. } => "give more digits of the id, or the name",
            Self::Plan(PlanError::NoCommand { .. }) => "name a command after the image",
            Self::User { .. } => {
                "name a user or group that the image has, or give numbers, with --user"
            }
            Self::BindSource { .. } => "make the path on the host first, or use -v, which makes it",
            Self::Running { .. } => "stop it with `keg stop`, or remove it with `keg rm -f`",
            Self::NotRunning { .. } => "start it with `keg start`",
            Self::Device { .. } => "see what there is with `ls -l /dev`, and for CDI in /etc/cdi",
            Self::NoInit { .. } => "install keg-init beside kegd, or leave out --init",
            Self::NoIdMaps { .. } => {
                "use --userns=host, or a runtime that can (keg-runtime, runc from 1.2 on)"
            }
            Self::OtherNotRunning { .. } => "start that one first, with `keg start`",
            Self::NoLog { .. } => "see what it writes from now on with `keg attach`",
            Self::Ps(PsError::Execute(_)) => "install procps, or leave the options out",
            Self::Paused { .. } => "let it go on with `keg unpause`",
            Self::Dead { .. } => "remove it with `keg rm`",
            Self::Runtime { reason: Reason::CommandNotFound, .. }
            | Self::Refused { reason: Reason::CommandNotFound, .. } => {
                "check the command's spelling and that the image has it"
            }
            Self::Runtime { reason: Reason::CommandNotExecutable, .. }
            | Self::Refused { reason: Reason::CommandNotExecutable, .. } => {
                "check that the file is executable and made for this machine's architecture"
            }
            Self::Launch { source: LaunchError::Execute { .. }, .. } => {
                "install containerd-shim-keg-v2 beside kegd, or set `shim` in the configuration"
            }
            Self::Timeout { .. } => "try again, or kill it with `keg kill`",
            Self::File { .. } | Self::Log { .. } => {
                "check the disk, and that --root and --state belong to the daemon and are writable"
            }
            Self::DamagedRecord { .. } => "remove the container, or restore keg.db from a backup",
            _ => return None,
        };
        Some(text.into())
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Image(error) => error.operands(),
            Self::Commit(error) => error.operands(),
            Self::Volume(error) => error.operands(),
            Self::Network(error) => error.operands(),
            Self::Connect { container, network, source } => {
                let mut operands = source.operands();
                operands.retain(|(key, _)| *key != "network");
                operands.push(("container", container.clone()));
                operands.push(("network", network.clone()));
                operands
            }
            Self::Metadata(error) => error.operands(),
            Self::Snapshot(error) => error.operands(),
            Self::NoSuchContainer { name } => vec![("container", name.clone())],
            Self::AmbiguousId { prefix } => vec![("container", prefix.clone())],
            Self::InvalidField { field, .. } => vec![("field", (*field).to_owned())],
            Self::BindSource { path, .. } | Self::File { path, .. } => {
                vec![("path", path.to_string_lossy().into_owned())]
            }
            Self::User { container, .. }
            | Self::Layers { container, .. }
            | Self::Running { container }
            | Self::NotRunning { container, .. }
            | Self::OtherNotRunning { container, .. }
            | Self::NoInit { container }
            | Self::NoIdMaps { container, .. }
            | Self::Device { container, .. }
            | Self::NoLog { container }
            | Self::Paused { container }
            | Self::NotPaused { container }
            | Self::BeingRemoved { container }
            | Self::Dead { container, .. }
            | Self::Runtime { container, .. }
            | Self::Refused { container, .. }
            | Self::Launch { container, .. }
            | Self::Task { container, .. }
            | Self::Streams { container, .. }
            | Self::Timeout { container, .. }
            | Self::Files { container, .. }
            | Self::Log { container, .. }
            | Self::NetworkOwnerStopped { container, .. }
            | Self::DamagedRecord { container, .. } => vec![("container", container.clone())],
            Self::InvalidId(_)
            | Self::UnknownSignal(_)
            | Self::UnknownNetwork(_)
            | Self::NoNetworks { .. }
            | Self::Ps(_)
            | Self::Plan(_)
            | Self::Spec(_)
            | Self::ExitRecord(_)
            | Self::Panicked { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_start_have_dockers_exit_codes() {
        let runtime = |reason| EngineError::Runtime {
            container: "web".into(),
            complaint: "no".into(),
            reason,
        };

        assert_eq!(runtime(Reason::CommandNotFound).exit_code(), 127);
        assert_eq!(runtime(Reason::CommandNotExecutable).exit_code(), 126);
        assert_eq!(runtime(Reason::RuntimeFailed).exit_code(), 125);
    }

    #[test]
    fn an_error_tells_its_causes_and_a_remedy() {
        let source = UserError::UnknownUser { name: "web".into() };
        let error = EngineError::User { container: "db".into(), source };

        assert!(error.chain().contains("no user \"web\""), "{}", error.chain());
        assert!(error.remedy().unwrap().contains("--user"));
        assert_eq!(error.operands(), [("container", "db".to_owned())]);
    }
}
