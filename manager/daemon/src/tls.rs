//! Clients that come over TCP: mutual TLS, or nothing.
//!
//! ```text
//!  accept ──▶ handshake, one task each ──▶ channel ──▶ gRPC server
//!                     └─ refused: a line in the log, an alert for the client
//! ```
//!
//! A client must show a certificate that the configured authority has signed, because it is root
//! once it is in. A client that is slow with its handshake holds nobody up.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use keg_tls::{Files, Identity, ReadError};
use rustls::ServerConfig;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::config::TlsFiles;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes that may be under way at once.
const HANDSHAKES: usize = 64;
/// How long to wait when the process or the machine is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why TCP cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("the certificates of [tls] in the configuration cannot be used")]
    Files {
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The authority cannot tell clients apart.
    #[error("clients cannot be verified by {path:?} (tls.ca)")]
    Verifier {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifierBuilderError,
    },
    /// Certificate and key cannot be used together.
    #[error("the certificate {cert:?} (tls.cert) cannot be used with the key {key:?} (tls.key)")]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The address cannot be had.
    #[error("cannot listen on tcp://{address}")]
    Bind {
        /// HOST:PORT.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listens on `address`; yields the connections of clients that have shown their certificate.
///
/// # Errors
/// [`TlsError`].
pub(crate) async fn listen(
    address: &str,
    files: &TlsFiles,
) -> Result<ReceiverStream<io::Result<Connection>>, TlsError> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(files)?));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| TlsError::Bind { address: address.to_owned(), source })?;
    let (verified, incoming) = mpsc::channel(HANDSHAKES);
    tokio::spawn(accept(listener, acceptor, verified));
    Ok(ReceiverStream::new(incoming))
}

/// Accepts until nobody takes the connections any more.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    verified: mpsc::Sender<io::Result<Connection>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = verified.closed() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection over TCP");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (acceptor, verified) = (acceptor.clone(), verified.clone());
        tokio::spawn(async move {
            let connection = handshake(stream, peer, &acceptor).await;
            drop(permit);
            if let Some(connection) = connection {
                // Nobody takes it if the daemon ends.
                let _ = verified.send(Ok(connection)).await;
            }
        });
    }
}

/// Verifies a client; says in the log why one is refused.
async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: &TlsAcceptor,
) -> Option<Connection> {
    // A failure costs speed, nothing else.
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(Connection(stream)),
        Ok(Err(error)) => {
            tracing::warn!(%peer, %error, "a client over TCP is refused");
            None
        }
        Err(_) => {
            tracing::warn!(%peer, "a client over TCP has not shown who it is in time");
            None
        }
    }
}

/// Reads the certificates and demands one of every client.
fn server_config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let of_both = Files { ca: files.ca.clone(), cert: files.cert.clone(), key: files.key.clone() };
    let Identity { authority, chain, key } =
        Identity::read(&of_both).map_err(|source| TlsError::Files { source })?;
    let provider = keg_tls::provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authority), Arc::clone(&provider))
            .build()
            .map_err(|source| TlsError::Verifier { path: files.ca.clone(), source })?;
    let identity = |source| {
        let (cert, key) = (files.cert.clone(), files.key.clone());
        TlsError::Identity { cert, key, source }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)
        })
        .map_err(identity)?;
    config.alpn_protocols = vec![keg_tls::PROTOCOL.to_vec()];
    Ok(config)
}

/// A connection of a client that has shown its certificate.
#[derive(Debug)]
pub(crate) struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
