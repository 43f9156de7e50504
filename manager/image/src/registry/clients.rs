//! HTTP clients: one for each way in which hosts are trusted; and whether a host speaks TLS.

use std::fs;
use std::path::Path;
use std::sync::{Once, PoisonError};
use std::time::Duration;

use http::StatusCode;
use reqwest::{Certificate, Client, Identity, Url};

use super::RegistryError;
use super::endpoint::{self, Endpoint, TlsFiles, Trust};
use super::transport::Transport;

/// How a host is talked to: clients are kept by this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Manner {
    trust: Trust,
    tls: TlsFiles,
}

impl Transport {
    /// Returns the client for a host: as its endpoint says, or, for any other that an answer leads to,
    /// as it would be without settings.
    pub(super) fn client(&self, endpoint: &Endpoint, host: &str) -> Result<Client, RegistryError> {
        let manner = match host == endpoint.host {
            true => Manner { trust: endpoint.trust, tls: endpoint.tls.clone() },
            false => Manner { trust: self.trust(host), tls: TlsFiles::default() },
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&manner) {
            return Ok(client.clone());
        }
        let client = self.build_client(&manner)?;
        clients.insert(manner, client.clone());
        Ok(client)
    }

    fn build_client(&self, manner: &Manner) -> Result<Client, RegistryError> {
        let authorities = authorities(&manner.tls)?;
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("keg/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(self.options().connect_timeout)
                .pool_idle_timeout(Duration::from_secs(30))
                .http2_initial_stream_window_size(2 << 20)
                .http2_initial_connection_window_size(8 << 20);
            let builder = match authorities.is_empty() {
                true => builder,
                false => builder.tls_certs_merge(authorities.clone()),
            };
            let builder = match identity(&manner.tls)? {
                Some(identity) => builder.identity(identity),
                None => builder,
            };
            Ok(match manner.trust {
                Trust::Tls => builder,
                Trust::Loopback => builder.no_proxy(),
                Trust::Insecure => builder.tls_danger_accept_invalid_certs(true),
            })
        };
        builder()?.build().or_else(|error| {
            if manner.trust == Trust::Tls {
                return Err(RegistryError::Tls { source: error });
            }
            // Without any certificate authority on the machine, plain HTTP still works.
            builder()?
                .tls_certs_only(Vec::<Certificate>::new())
                .build()
                .map_err(|source| RegistryError::Tls { source })
        })
    }

    /// Returns the URL of a path of an endpoint's API.
    pub(super) async fn url(&self, endpoint: &Endpoint, path: &str) -> Result<Url, RegistryError> {
        let scheme = self.scheme(endpoint).await?;
        let (host, prefix) = (&endpoint.host, &endpoint.path);
        Url::parse(&format!("{scheme}://{host}{prefix}{path}"))
            .map_err(|_| RegistryError::BadName { registry: host.to_owned() })
    }

    /// Returns the URL of an endpoint's host.
    pub(super) async fn root_url(&self, endpoint: &Endpoint) -> Result<Url, RegistryError> {
        let mut url = self.url(endpoint, "").await?;
        url.set_path("/");
        Ok(url)
    }

    /// Tells how a host without settings is to be trusted.
    pub(super) fn trust(&self, host: &str) -> Trust {
        endpoint::trust(host, &self.options().insecure)
    }

    /// Finds out whether a host that may go without TLS speaks it.
    async fn scheme(&self, endpoint: &Endpoint) -> Result<&'static str, RegistryError> {
        if let Some(scheme) = endpoint.scheme {
            return Ok(scheme);
        }
        let host = endpoint.host.as_str();
        let known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let client = self.client(endpoint, host)?;
        let ping = |scheme: &str| client.get(format!("{scheme}://{host}/v2/"));
        let plain = self.send(host, ping("http")).await;
        let scheme = match plain {
            // A server that speaks TLS answers plain HTTP with 400, or not at all.
            Ok(answer) if answer.status() != StatusCode::BAD_REQUEST => "http",
            Ok(_) => "https",
            Err(plain) => match self.send(host, ping("https")).await {
                Ok(_) => "https",
                Err(error @ RegistryError::Certificate { .. }) => return Err(error),
                Err(_) => return Err(plain),
            },
        };
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.insert(host.to_owned(), scheme);
        Ok(scheme)
    }
}

/// Chooses what TLS computes with, once for the process: without it no HTTP client can be made.
pub(super) fn install_tls() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only if there is one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn authorities(tls: &TlsFiles) -> Result<Vec<Certificate>, RegistryError> {
    let mut all = Vec::new();
    for path in &tls.authorities {
        let bundle = Certificate::from_pem_bundle(&read(path)?)
            .map_err(|source| RegistryError::CertificateFile { path: path.clone(), source })?;
        all.extend(bundle);
    }
    Ok(all)
}

fn identity(tls: &TlsFiles) -> Result<Option<Identity>, RegistryError> {
    let Some((certificate, key)) = &tls.identity else { return Ok(None) };
    let mut pem = read(certificate)?;
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend(read(key)?);
    }
    let identity = Identity::from_pem(&pem)
        .map_err(|source| RegistryError::CertificateFile { path: certificate.clone(), source })?;
    Ok(Some(identity))
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path)
        .map_err(|source| RegistryError::ReadCertificate { path: path.to_owned(), source })
}
