//! Debian's docker-registry behind a token server, as the distribution project specifies it: the registry
//! sends whoever comes to the server, which knows one user and signs what he may do.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::registry::{HttpRequest, HttpResponse};
use crate::wait::PATIENCE;
use crate::{BadRegistry, Image, Outcome, Registry, Scratch, programs};

/// How long a token is good for, in seconds.
const LIFETIME_SECS: u64 = 300;

/// A registry that takes nothing but tokens, and the server that issues them.
#[derive(Debug)]
pub struct TokenRegistry {
    registry: Registry,
    server: BadRegistry,
    // The keys go last.
    _keys: Scratch,
}

impl TokenRegistry {
    /// Starts both; the user's name and password are what `basic` encodes, "Basic …".
    ///
    /// # Panics
    /// If docker-registry or openssl is missing or fails.
    #[must_use]
    #[track_caller]
    pub fn new(basic: &'static str) -> Self {
        let keys = Scratch::new();
        let (key, certificate) = (keys.join("key.pem"), keys.join("certificate.pem"));
        let words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=it -keyout";
        let mut arguments: Vec<&OsStr> = words.split(' ').map(OsStr::new).collect();
        arguments.extend([key.as_os_str(), OsStr::new("-out"), certificate.as_os_str()]);
        openssl(&arguments);
        let pem = std::fs::read_to_string(&certificate).expect("the certificate");
        let chain: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let issuer = Issuer { key, chain, scratch: keys.path().to_owned(), basic };
        let server = BadRegistry::new(Image::busybox(), move |request, _| issuer.answer(request));
        let registry = Registry::configured(&format!(
            "auth: {{token: {{realm: 'http://{}/token', service: it-service, issuer: it-issuer, \
             rootcertbundle: {}}}}}\n",
            server.address(),
            certificate.display(),
        ));
        Self { registry, server, _keys: keys }
    }

    /// Returns "127.0.0.1:PORT".
    #[must_use]
    pub fn address(&self) -> String {
        self.registry.address()
    }

    /// Returns what the token server was asked for, oldest first: paths with queries.
    ///
    /// # Panics
    /// As [`BadRegistry::requests`].
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.server.requests().into_iter().map(|request| request.path).collect()
    }
}

/// What signs tokens.
struct Issuer {
    key: PathBuf,
    /// The certificate, DER in base64.
    chain: String,
    scratch: PathBuf,
    basic: &'static str,
}

impl Issuer {
    /// Whoever shows the right password may do what he asks for, and whoever shows none may do nothing.
    fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let access = match request.headers.get("authorization") {
            None => json!([]),
            Some(value) if value == self.basic => asked_access(&request.path),
            Some(_) => return HttpResponse::new(401, r#"{"details":"incorrect password"}"#),
        };
        let token = self.sign(&access);
        let body = json!({"token": token, "expires_in": LIFETIME_SECS});
        HttpResponse::new(200, body.to_string()).header("Content-Type", "application/json")
    }

    /// Signs what somebody may do (distribution project, "Token Authentication Implementation").
    fn sign(&self, access: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the time").as_secs();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.chain]});
        let claims = json!({
            "iss": "it-issuer", "sub": "me", "aud": "it-service", "jti": "1",
            "iat": now, "nbf": now - 60, "exp": now + LIFETIME_SECS, "access": access,
        });
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    fn signature(&self, bytes: &[u8]) -> Vec<u8> {
        let place = tempfile::tempdir_in(&self.scratch).expect("a directory");
        let (input, output) = (place.path().join("in"), place.path().join("out"));
        std::fs::write(&input, bytes).expect("write what is signed");
        let [dgst, sha256, sign, out] = ["dgst", "-sha256", "-sign", "-out"].map(OsStr::new);
        let (key, input) = (self.key.as_os_str(), input.as_os_str());
        openssl(&[dgst, sha256, sign, key, out, output.as_os_str(), input]);
        std::fs::read(output).expect("the signature")
    }
}

/// Reads `scope=repository:NAME:ACTIONS` out of a query.
fn asked_access(path: &str) -> Value {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let scopes = scopes.flat_map(|scope| scope.split('+').map(str::to_owned).collect::<Vec<_>>());
    let access = scopes.filter_map(|scope| {
        let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let actions: Vec<&str> = actions.split(',').collect();
        Some(json!({"type": kind, "name": name, "actions": actions}))
    });
    access.collect()
}

#[track_caller]
fn openssl(arguments: &[&OsStr]) {
    let program = programs::installed("openssl").expect("openssl is missing");
    let _ = Outcome::of(Command::new(program).args(arguments), PATIENCE).success();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_out_of_queries() {
        let path = "/token?account=me&scope=repository%3Ateam%2Fit%3Apull%2Cpush&service=x";

        let access = asked_access(path);

        let wanted =
            json!([{"type": "repository", "name": "team/it", "actions": ["pull", "push"]}]);
        assert_eq!(access, wanted);
        assert_eq!(asked_access("/token"), json!([]));
    }
}
