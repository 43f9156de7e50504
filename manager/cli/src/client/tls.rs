//! The connection over TCP: both sides show a certificate.
//!
//! With TLS 1.3 a server judges the client's certificate after the client's part of the handshake
//! is over: [`dial`] waits for the verdict, so that a refusal is told as one.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::builder::FalseyValueParser;
use keg_tls::{Files, Identity, ReadError};
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, ProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::failure::Failure;

/// Names a directory with ca.pem, cert.pem and key.pem.
const CERT_PATH: &str = "KEG_CERT_PATH";
/// How long connection and handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// The certificates for tcp://; fixed when the program starts.
static OPTIONS: OnceLock<TlsOptions> = OnceLock::new();

/// Which certificates are shown and believed, as it was typed.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TlsOptions {
    /// Use TCP with TLS only: tcp://localhost:2376 unless --host names another, and no unix socket
    #[arg(long, env = "KEG_TLS_VERIFY", value_parser = FalseyValueParser::new())]
    pub(crate) tlsverify: bool,
    /// Authority that the daemon's certificate must be of, for tcp:// (default ca.pem in
    /// KEG_CERT_PATH, else in ~/.keg)
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Certificate to show to the daemon, for tcp:// (default cert.pem there)
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Key of that certificate, for tcp:// (default key.pem there)
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
}

impl TlsOptions {
    /// Makes these the certificates of every connection of this program.
    pub(crate) fn install(self) {
        // Whoever came first stays: there is one command line.
        let _ = OPTIONS.set(self);
    }

    fn files(&self) -> Files {
        let dir = std::env::var_os(CERT_PATH).filter(|dir| !dir.is_empty()).map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".keg"),
            PathBuf::from,
        );
        let file = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| dir.join(name));
        Files {
            ca: file(&self.tlscacert, "ca.pem"),
            cert: file(&self.tlscert, "cert.pem"),
            key: file(&self.tlskey, "key.pem"),
        }
    }
}

/// Why there is no connection over TCP.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error("there are no certificates to connect with")]
    Files {
        #[source]
        source: ReadError,
    },
    #[error("the certificate {} cannot be used with the key {}", cert.display(), key.display())]
    Identity {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{host:?} is no name of a host")]
    Name {
        host: String,
        #[source]
        source: InvalidDnsNameError,
    },
    #[error("cannot connect to kegd at tcp://{address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("no secure connection to kegd at tcp://{address}: {verdict}")]
    Refused {
        address: String,
        verdict: &'static str,
        #[source]
        source: rustls::Error,
    },
}

/// What is needed to connect to one daemon, again if need be.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    address: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    files: Files,
}

impl Dialer {
    /// Reads the certificates for the daemon at `host` and `port`.
    ///
    /// # Errors
    /// A [`Failure`] that names the file, and the options that name another.
    pub(super) fn new(host: &str, port: u16) -> Result<Self, Failure> {
        let files = OPTIONS.get().cloned().unwrap_or_default().files();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare)
            .map_err(|source| Failure::usage(TlsError::Name { host: host.to_owned(), source }))?;
        let config = client_config(&files).map_err(|error| {
            let remedy = "name the files by --tlscacert, --tlscert and --tlskey, or their directory \
                          by KEG_CERT_PATH (ca.pem, cert.pem, key.pem)";
            Failure::client(error).with_remedy(remedy)
        })?;
        let address = format!("{host}:{port}");
        Ok(Self { address, name, config: Arc::new(config), files })
    }

    /// Connects, and waits until both sides believe each other.
    ///
    /// # Errors
    /// The kind of the connection's error; what TLS has against it is in it as a [`rustls::Error`].
    pub(super) async fn dial(&self) -> io::Result<TlsStream<TcpStream>> {
        let connect = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            let connector = TlsConnector::from(Arc::clone(&self.config));
            let mut stream = connector.connect(self.name.clone(), stream).await?;
            verdict(&mut stream).await?;
            Ok(stream)
        };
        let timeout = tokio::time::timeout(HANDSHAKE, connect);
        timeout.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says what an error of [`dial`](Self::dial) means, and what to do about it.
    pub(super) fn explain(&self, error: io::Error) -> Failure {
        let address = self.address.clone();
        let refusal = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(source) = refusal.cloned() else {
            let failure = Failure::client(TlsError::Connect { address, source: error });
            return failure
                .with_remedy("see that kegd runs there with `--listen tcp://HOST:PORT` and TLS");
        };
        let (verdict, remedy) = self.meaning(&source);
        Failure::client(TlsError::Refused { address, verdict, source }).with_remedy(remedy)
    }

    fn meaning(&self, error: &rustls::Error) -> (&'static str, String) {
        use rustls::Error::{AlertReceived, InvalidCertificate};
        let (ca, cert) = (self.files.ca.display(), self.files.cert.display());
        let ours =
            format!("have a certificate made that kegd's authority signs, in place of {cert}");
        match error {
            InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => (
                "its certificate is of an authority that is not trusted",
                format!("name its authority by --tlscacert, in place of {ca}"),
            ),
            InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => (
                "its certificate has expired",
                "have its certificate renewed, and see that the clocks are right".to_owned(),
            ),
            InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => (
                "its certificate is for other names",
                "connect by a name that the certificate has".to_owned(),
            ),
            InvalidCertificate(_) => {
                ("its certificate is not valid", "have its certificate made anew".to_owned())
            }
            AlertReceived(AlertDescription::CertificateRequired) => {
                ("it asks for a certificate, and got none", ours)
            }
            AlertReceived(AlertDescription::CertificateExpired) => {
                ("it refuses our certificate, which has expired", ours)
            }
            AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
                ("it refuses our certificate, which is of another authority", ours)
            }
            AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied,
            ) => ("it refuses our certificate", ours),
            _ => ("the handshake failed", "see that it is kegd that listens there".to_owned()),
        }
    }
}

/// Waits until the server has judged our certificate: it then sends its tickets, or an alert.
async fn verdict(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let (socket, session) = stream.get_mut();
    // Before TLS 1.3 the verdict was part of the handshake.
    while session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        && session.tls13_tickets_received() == 0
    {
        socket.readable().await?;
        match session.read_tls(&mut Available(socket)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let state = session
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if state.plaintext_bytes_to_read() > 0 {
            break;
        }
    }
    Ok(())
}

/// What has arrived at a socket, and no waiting.
struct Available<'a>(&'a TcpStream);

impl Read for Available<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

fn client_config(files: &Files) -> Result<ClientConfig, TlsError> {
    let Identity { authority, chain, key } =
        Identity::read(files).map_err(|source| TlsError::Files { source })?;
    let mut config = ClientConfig::builder_with_provider(keg_tls::provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_root_certificates(authority).with_client_auth_cert(chain, key)
        })
        .map_err(|source| {
            let (cert, key) = (files.cert.clone(), files.key.clone());
            TlsError::Identity { cert, key, source }
        })?;
    config.alpn_protocols = vec![keg_tls::PROTOCOL.to_vec()];
    Ok(config)
}
