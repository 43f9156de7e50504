//! Mutual TLS of keg.v1 over TCP: what both ends have alike.
//!
//! Each end shows a certificate, and believes those of one authority. Daemon and client read the
//! same three files, and build a configuration for their side of the handshake of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What is spoken on the connection (RFC 7301): HTTP/2, which gRPC goes over.
pub const PROTOCOL: &[u8] = b"h2";

/// Where an end's certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Certificate of the authority whose certificates are believed.
    pub ca: PathBuf,
    /// Certificate that is shown, and those between it and its authority.
    pub cert: PathBuf,
    /// Key of that certificate.
    pub key: PathBuf,
}

/// Why certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file cannot be read, or holds something else.
    #[error("cannot read {what} from {}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The authority's certificate cannot be used.
    #[error("the authority's certificate {} cannot be used", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// What an end believes and shows.
#[derive(Debug)]
pub struct Identity {
    /// The authority whose certificates are believed.
    pub authority: RootCertStore,
    /// The certificate that is shown, and those between it and its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// Key of that certificate.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(files: &Files) -> Result<Self, ReadError> {
        let mut authority = RootCertStore::empty();
        for certificate in certificates("the authority's certificate", &files.ca)? {
            let fail = |source| ReadError::Authority { path: files.ca.clone(), source };
            authority.add(certificate).map_err(fail)?;
        }
        let chain = certificates("the certificate to show", &files.cert)?;
        let what = "the key of the certificate to show";
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| ReadError::File {
            what,
            path: files.key.clone(),
            source,
        })?;
        Ok(Self { authority, chain, key })
    }
}

/// The cryptography of both ends.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads the certificates in a file, of which there must be one.
fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ReadError> {
    let fail = |source| ReadError::File { what, path: path.to_owned(), source };
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found.map_err(fail)? {
        found if found.is_empty() => Err(fail(pem::Error::NoItemsFound)),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files {
            ca: dir.path().join("ca.pem"),
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
        };

        let missing = Identity::read(&files).unwrap_err();
        std::fs::write(&files.ca, "no certificate\n").unwrap();
        let empty = Identity::read(&files).unwrap_err();

        for error in [missing, empty] {
            let expected =
                format!("cannot read the authority's certificate from {}", files.ca.display());
            assert_eq!(error.to_string(), expected);
        }
    }
}
