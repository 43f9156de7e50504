//! Why TLS fails: what is wrong with a registry's certificate, in words.

use std::error::Error;

use rustls::CertificateError;

/// Returns what is wrong with the certificate, if that is what an error is about.
pub(super) fn certificate_problem(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
            return Some(words(problem));
        }
        // What an I/O error carries is not among its sources.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}

fn words(problem: &CertificateError) -> String {
    match problem {
        CertificateError::UnknownIssuer => {
            "it is issued by an authority that this machine does not know".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: is the clock right?".to_owned()
        }
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            format!("it is for {}", presented.join(", "))
        }
        CertificateError::NotValidForNameContext { .. } => "it is for no name at all".to_owned(),
        CertificateError::Revoked => "it is revoked".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_in_words() {
        assert!(words(&CertificateError::UnknownIssuer).contains("authority"));
        assert!(words(&CertificateError::Expired).contains("expired"));
    }
}
