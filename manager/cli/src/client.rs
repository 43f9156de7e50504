//! The connection to kegd.

mod tls;

use std::future::Future;
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

pub(crate) use self::tls::TlsOptions;

/// Where kegd listens if nothing else is said.
pub(crate) const DEFAULT_HOST: &str = "unix:///run/keg/kegd.sock";
/// Where kegd is looked for if TLS is asked for and nothing else is said.
pub(crate) const DEFAULT_TLS_HOST: &str = "tcp://localhost:2376";
/// Port of kegd over TCP, unless the address names one.
const DEFAULT_TLS_PORT: u16 = 2376;

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
    #[error("the connection to kegd at {host} could not be set up")]
    Handshake {
        host: String,
        #[source]
        source: tonic::transport::Error,
    },
}

impl Daemon {
    /// Connects to the daemon at `host`: `unix://PATH`, or `tcp://HOST:PORT` with mutual TLS.
    ///
    /// # Errors
    /// A [`Failure`] that says what is wrong with the address, the socket or a certificate, and
    /// what to do.
    pub(crate) async fn connect(host: &str) -> Result<Self, Failure> {
        // The first connection is made here and not by the connector, whose errors lose their kind.
        let channel = match Address::parse(host) {
            Some(Address::Socket(path)) => {
                let stream =
                    UnixStream::connect(&path).await.map_err(|source| refused(&path, source))?;
                channel(stream, move || UnixStream::connect(path.clone())).await
            }
            Some(Address::Tcp { host, port }) => {
                let dialer = tls::Dialer::new(&host, port)?;
                let stream = dialer.dial().await.map_err(|error| dialer.explain(error))?;
                let again = move || {
                    let dialer = dialer.clone();
                    async move { dialer.dial().await }
                };
                channel(stream, again).await
            }
            None => {
                let remedy =
                    "give --host or KEG_HOST as unix:///PATH/TO/kegd.sock or tcp://HOST:PORT";
                let error = ConnectError::BadAddress { host: host.to_owned() };
                return Err(Failure::usage(error).with_remedy(remedy));
            }
        };
        let fail = |source| Failure::client(ConnectError::Handshake { host: host.into(), source });
        Ok(Self { channel: channel.map_err(fail)? })
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

/// Speaks HTTP/2 over `first`, and over what `again` yields when that has ended.
async fn channel<S, C, F>(first: S, again: C) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C: Fn() -> F + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let mut first = Some(first);
    let connector = tower::service_fn(move |_| {
        let stream = first.take().ok_or_else(&again);
        async move {
            match stream {
                Ok(stream) => Ok(TokioIo::new(stream)),
                Err(again) => again.await.map(TokioIo::new),
            }
        }
    });
    // The URI only fills a header: the connector knows where to go.
    Endpoint::from_static("http://kegd")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector(connector)
        .await
}

/// Where a daemon is.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    /// `unix://PATH`, or a path alone.
    Socket(PathBuf),
    /// `tcp://HOST[:PORT]`.
    Tcp { host: String, port: u16 },
}

impl Address {
    fn parse(host: &str) -> Option<Self> {
        if host.starts_with("tcp://") {
            let uri: Uri = host.parse().ok()?;
            let authority =
                uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
            let port = match authority.as_str().strip_prefix(authority.host())? {
                "" => DEFAULT_TLS_PORT,
                _ => authority.port_u16()?,
            };
            let name = authority.host().to_owned();
            return (uri.path() == "/" && !name.is_empty())
                .then_some(Self::Tcp { host: name, port });
        }
        let path = host.strip_prefix("unix://").unwrap_or(host);
        path.starts_with('/').then(|| Self::Socket(PathBuf::from(path)))
    }
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
    fn hosts_name_sockets_by_absolute_paths_or_ports() {
        let socket = |path: &str| Some(Address::Socket(path.into()));
        let tcp = |host: &str, port| Some(Address::Tcp { host: host.to_owned(), port });
        let table = [
            ("unix:///run/keg/kegd.sock", socket("/run/keg/kegd.sock")),
            ("/run/x.sock", socket("/run/x.sock")),
            ("tcp://127.0.0.1:2377", tcp("127.0.0.1", 2377)),
            ("tcp://build.example", tcp("build.example", 2376)),
            ("tcp://[::1]:1", tcp("[::1]", 1)),
            ("unix://relative.sock", None),
            ("tcp://", None),
            ("tcp://host:port", None),
            ("tcp://host:1/path", None),
            ("tcp://user@host:1", None),
            ("", None),
        ];
        for (host, address) in table {
            assert_eq!(Address::parse(host), address, "{host}");
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
