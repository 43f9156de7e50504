//! Archives from elsewhere: what a URL names, as it comes.

use std::borrow::Cow;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use keg_store::{Explain, Reason};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url, header};

use crate::Images;
use crate::registry::{is_on_loopback, without_secrets};

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// Why nothing could be downloaded. Addresses are told without what may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// It is no address, or not one of the web.
    #[error("{url:?} is not an address that begins with http:// or https://")]
    Address {
        /// What was given.
        url: String,
    },
    /// The server does not answer.
    #[error("cannot download {url}")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server answers, with something else.
    #[error("cannot download {url}: the server answers {status}")]
    Refused {
        /// The address.
        url: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The server leads to where nobody should follow.
    #[error("cannot download {url}: the server redirects to {target:?}: {problem}")]
    Redirect {
        /// The address.
        url: String,
        /// Where to.
        target: String,
        /// Why nobody goes there.
        problem: &'static str,
    },
}

impl Explain for DownloadError {
    fn reason(&self) -> Reason {
        match self {
            Self::Address { .. } => Reason::InvalidArgument,
            Self::Refused { status, .. } if status.is_client_error() => Reason::InvalidArgument,
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Redirect { .. } => {
                Reason::RegistryUnreachable
            }
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Address { .. } => "give a file, - for standard input, or a whole address".into(),
            Self::Unreachable { .. } => {
                "see whether the daemon's machine reaches the server, by a proxy if it needs one, \
                 or fetch it here: curl -L ADDRESS | keg import -"
                    .into()
            }
            Self::Refused { .. } => "see whether the address is right".into(),
            Self::Redirect { .. } => "find out where the archive is, and give that address".into(),
        })
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        let (Self::Address { url }
        | Self::Unreachable { url, .. }
        | Self::Refused { url, .. }
        | Self::Redirect { url, .. }) = self;
        vec![("url", url.clone())]
    }
}

impl Images {
    /// Begins to download what an address names, with the patience that registries get, and through the
    /// proxies of the environment unless it is on this machine. Redirects are followed within the web,
    /// except from TLS to none; no registry's credentials are sent.
    ///
    /// # Errors
    /// [`DownloadError`]; what breaks off later is an error of the stream.
    pub async fn download(
        &self,
        address: &str,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + Unpin + use<>, DownloadError> {
        let parsed = Url::parse(address).ok();
        let Some(mut url) = parsed.filter(is_of_the_web) else {
            return Err(DownloadError::Address { url: shown(address) });
        };
        let asked = without_secrets(&url);
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask(&url).await.map_err(|source| DownloadError::Unreachable {
                url: asked.clone(),
                source: source.without_url(),
            })?;
            match answer.status() {
                StatusCode::OK => {
                    let pieces = answer.bytes_stream();
                    let pieces = pieces.map_err(|error| io::Error::other(error.without_url()));
                    return Ok(Box::pin(pieces));
                }
                status if status.is_redirection() => url = next(&asked, &url, &answer)?,
                status => return Err(DownloadError::Refused { url: asked, status }),
            }
        }
        let target = without_secrets(&url);
        Err(DownloadError::Redirect { url: asked, target, problem: "that is one too many" })
    }

    async fn ask(&self, url: &Url) -> Result<Response, reqwest::Error> {
        let options = self.shared.registry.options();
        let client = Client::builder()
            .user_agent(concat!("keg/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.stall_timeout)
            .redirect(Policy::none());
        let client = if is_on_loopback(url) { client.no_proxy() } else { client };
        client.build()?.get(url.clone()).send().await
    }
}

fn is_of_the_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

/// Returns where a redirect leads.
fn next(asked: &str, from: &Url, answer: &Response) -> Result<Url, DownloadError> {
    let location = answer.headers().get(header::LOCATION);
    let location = location.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refused = |problem| {
        let (url, target) = (asked.to_owned(), shown(location));
        Err(DownloadError::Redirect { url, target, problem })
    };
    match from.join(location) {
        Err(_) => refused("that is no address"),
        Ok(_) if location.is_empty() => refused("it does not say where to"),
        Ok(target) if !is_of_the_web(&target) => refused("it is neither HTTPS nor HTTP"),
        Ok(target) if from.scheme() == "https" && target.scheme() != "https" => {
            refused("it gives TLS up")
        }
        Ok(target) => Ok(target),
    }
}

/// Returns what is no secret of an address that cannot be used.
fn shown(address: &str) -> String {
    match Url::parse(address) {
        Ok(url) => without_secrets(&url),
        Err(_) => address.split(['?', '#']).next().unwrap_or_default().to_owned(),
    }
}
