//! The connection to kegd.

use std::io;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use keg_proto::keg::v1::builds_client::BuildsClient;
use keg_proto::keg::v1::containers_client::ContainersClient;
use keg_proto::keg::v1::events_client::EventsClient;
use keg_proto::keg::v1::files_client::FilesClient;
use keg_proto::keg::v1::images_client::ImagesClient;
use keg_proto::keg::v1::limits_client::LimitsClient;
use keg_proto::keg::v1::networks_client::NetworksClient;
use keg_proto::keg::v1::registries_client::RegistriesClient;
use keg_proto::keg::v1::storage_client::StorageClient;
use keg_proto::keg::v1::system_client::SystemClient;
use keg_proto::keg::v1::volumes_client::VolumesClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

/// Where kegd listens if nothing else is said.
pub(crate) const DEFAULT_HOST: &str = "unix:///run/keg/kegd.sock";

/// Bytes that the daemon may send ahead in one stream, and in all of them: with HTTP/2's own 64 KiB
/// a stream of output would stand still for every answer.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// A daemon that can be called.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    channel: Channel,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("{host:?} is no address of a daemon")]
    BadAddress { host: String },
    #[error("cannot connect to kegd at unix://{}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the connection to kegd at unix://{} could not be set up", path.display())]
    Handshake {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
}

impl Daemon {
    /// Connects to the daemon at `host`, `unix://PATH`.
    ///
    /// # Errors
    /// A [`Failure`] that says what is wrong with the address or the socket, and what to do.
    pub(crate) async fn connect(host: &str) -> Result<Self, Failure> {
        let path = socket_path(host).ok_or_else(|| {
            let remedy = "give --host or KEG_HOST as unix:///PATH/TO/kegd.sock";
            Failure::usage(ConnectError::BadAddress { host: host.to_owned() }).with_remedy(remedy)
        })?;
        // The first connection is made here and not by the connector, whose errors lose their kind.
        let stream = UnixStream::connect(&path).await.map_err(|source| refused(&path, source))?;
        let mut first = Some(stream);
        let again = path.clone();
        let connector = tower::service_fn(move |_| {
            let first = first.take();
            let path = again.clone();
            async move {
                match first {
                    Some(stream) => Ok(TokioIo::new(stream)),
                    None => UnixStream::connect(path).await.map(TokioIo::new),
                }
            }
        });
        // The URI only fills a header: the connector goes to the socket.
        let channel = Endpoint::from_static("http://kegd")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector(connector)
            .await
            .map_err(|source| Failure::client(ConnectError::Handshake { path, source }))?;
        Ok(Self { channel })
    }

    /// Calls about builds.
    pub(crate) fn builds(&self) -> BuildsClient<Channel> {
        BuildsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Calls about containers.
    pub(crate) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Calls about images.
    pub(crate) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Calls about registries.
    pub(crate) fn registries(&self) -> RegistriesClient<Channel> {
        RegistriesClient::new(self.channel.clone())
    }

    /// Calls about the disk.
    pub(crate) fn storage(&self) -> StorageClient<Channel> {
        StorageClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Calls about the daemon itself.
    pub(crate) fn system(&self) -> SystemClient<Channel> {
        SystemClient::new(self.channel.clone())
    }

    /// Calls about volumes.
    pub(crate) fn volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Calls about networks.
    pub(crate) fn networks(&self) -> NetworksClient<Channel> {
        NetworksClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Calls about containers' files.
    pub(crate) fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Calls about what containers use, and may use.
    pub(crate) fn limits(&self) -> LimitsClient<Channel> {
        LimitsClient::new(self.channel.clone())
    }

    /// Calls about what happens.
    pub(crate) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }
}

/// The path in `unix://PATH`, or a path alone.
fn socket_path(host: &str) -> Option<PathBuf> {
    let path = host.strip_prefix("unix://").unwrap_or(host);
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// What a failed connect(2) means, and what to do about it.
fn refused(path: &Path, source: io::Error) -> Failure {
    let kind = source.kind();
    let failure = Failure::client(ConnectError::Socket { path: path.to_owned(), source });
    match kind {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => failure
            .with_remedy("start it as root with `kegd`, or name its socket by --host or KEG_HOST"),
        io::ErrorKind::PermissionDenied => failure
            .with_remedy("use sudo, or join the group that the socket admits (`ls -l` names it)"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_sockets_by_absolute_paths() {
        let table = [
            ("unix:///run/keg/kegd.sock", Some("/run/keg/kegd.sock")),
            ("/run/x.sock", Some("/run/x.sock")),
            ("unix://relative.sock", None),
            ("tcp://127.0.0.1:2376", None),
            ("", None),
        ];
        for (host, path) in table {
            assert_eq!(socket_path(host), path.map(PathBuf::from), "{host}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_named_with_the_way_to_start_it() {
        let failure =
            Daemon::connect("unix:///nonexistent/kegd.sock").await.expect_err("no daemon");

        let text = failure.render();
        assert!(text.contains("unix:///nonexistent/kegd.sock"), "{text}");
        assert!(text.contains("try: start it as root with `kegd`"), "{text}");
    }
}
