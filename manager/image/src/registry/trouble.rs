//! Why TLS fails: what is wrong with a registry's certificate, in words.

use std::error::Error;
use std::fmt;

use http::Method;
use reqwest::Client;
use reqwest::tls::TlsInfo;
use rustls::CertificateError;

use super::RegistryError;
use super::issuer::issuer_of;
use super::transport::Transport;

/// What is wrong with a registry's certificate.
#[derive(Debug, Clone, PartialEq)]
pub enum CertificateProblem {
    /// Nobody vouches for who issued it.
    UnknownIssuer {
        /// The issuer, as the certificate names it.
        issuer: Option<String>,
    },
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is for other names.
    OtherName {
        /// The names, if that is known.
        names: Vec<String>,
    },
    /// Its issuer took it back.
    Revoked,
    /// Something else.
    Invalid(CertificateError),
}

impl CertificateProblem {
    /// Returns what is wrong with the certificate, if that is what an error is about.
    pub(super) fn of(error: &reqwest::Error) -> Option<Self> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
                return Some(problem.into());
            }
            // What an I/O error carries is not among its sources.
            cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(carried) => Some(carried),
                None => error.source(),
            };
        }
        None
    }
}

impl From<&CertificateError> for CertificateProblem {
    fn from(problem: &CertificateError) -> Self {
        match problem {
            CertificateError::UnknownIssuer => Self::UnknownIssuer { issuer: None },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::NotValidForName => Self::OtherName { names: Vec::new() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::OtherName { names: presented.clone() }
            }
            CertificateError::Revoked => Self::Revoked,
            other => Self::Invalid(other.clone()),
        }
    }
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownIssuer { issuer: Some(issuer) } => {
                write!(
                    f,
                    "it is issued by {issuer:?}, an authority that this machine does not know"
                )
            }
            Self::UnknownIssuer { issuer: None } => {
                f.write_str("it is issued by an authority that this machine does not know")
            }
            Self::Expired => f.write_str("it has expired"),
            Self::NotYetValid => f.write_str("it is not valid yet: is the clock right?"),
            Self::OtherName { names } if names.is_empty() => f.write_str("it is for another name"),
            Self::OtherName { names } => write!(f, "it is for {}", names.join(", ")),
            Self::Revoked => f.write_str("it is revoked"),
            Self::Invalid(problem) => problem.fmt(f),
        }
    }
}

impl Transport {
    /// Adds to an error about an unknown issuer who that is. The library that found it unknown does not
    /// say, so that the certificate is fetched once more; nothing is sent but a question without
    /// credentials.
    pub(super) async fn with_issuer(&self, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::Certificate {
                registry,
                problem: CertificateProblem::UnknownIssuer { issuer: None },
                source,
            } => {
                let issuer = self.issuer(&registry).await;
                let problem = CertificateProblem::UnknownIssuer { issuer };
                RegistryError::Certificate { registry, problem, source }
            }
            other => other,
        }
    }

    async fn issuer(&self, host: &str) -> Option<String> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(self.options().connect_timeout)
            .tls_danger_accept_invalid_certs(true)
            .tls_info(true)
            .build()
            .ok()?;
        let answer =
            client.request(Method::HEAD, format!("https://{host}/v2/")).send().await.ok()?;
        issuer_of(answer.extensions().get::<TlsInfo>()?.peer_certificate()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_in_words() {
        let words = |error: &CertificateError| CertificateProblem::from(error).to_string();
        let named = CertificateProblem::UnknownIssuer { issuer: Some("Example CA".to_owned()) };

        assert!(words(&CertificateError::UnknownIssuer).contains("authority"));
        assert!(words(&CertificateError::Expired).contains("expired"));
        assert!(named.to_string().contains("\"Example CA\""), "{named}");
    }
}
