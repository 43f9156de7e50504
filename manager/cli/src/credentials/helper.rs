//! Programs that keep credentials: `docker-credential-NAME get|store|erase`, which speak JSON over
//! their standard streams.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use keg_proto::keg::v1::RegistryAuth;
use serde::{Deserialize, Serialize};

/// User name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What helpers say where they have nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Why a helper could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    /// It cannot be run.
    #[error("cannot run the credential helper {program}")]
    Run {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("the credential helper {program} failed{}", said(.message))]
    Failed {
        /// Its name.
        program: String,
        /// What it said.
        message: String,
    },
    /// Its answer cannot be read.
    #[error("the credential helper {program} gave a malformed answer")]
    Answer {
        /// Its name.
        program: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// What helpers keep.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// Asks a helper for credentials.
///
/// # Errors
/// [`HelperError`]; that it has none is no error.
pub(crate) fn get(name: &str, server: &str) -> Result<Option<RegistryAuth>, HelperError> {
    let answer = match run(name, "get", server.as_bytes()) {
        Err(HelperError::Failed { message, .. }) if message == NOT_FOUND => return Ok(None),
        other => other?,
    };
    let kept: Kept = serde_json::from_slice(&answer)
        .map_err(|source| HelperError::Answer { program: program(name), source })?;
    if kept.username.is_empty() && kept.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match kept.username.as_str() {
        TOKEN_USER => RegistryAuth { identity_token: kept.secret, ..RegistryAuth::default() },
        _ => RegistryAuth {
            username: kept.username,
            password: kept.secret,
            ..RegistryAuth::default()
        },
    }))
}

/// Gives credentials to a helper.
///
/// # Errors
/// [`HelperError`].
pub(crate) fn store(name: &str, server: &str, auth: &RegistryAuth) -> Result<(), HelperError> {
    let (username, secret) = match auth.identity_token.as_str() {
        "" => (auth.username.clone(), auth.password.clone()),
        token => (TOKEN_USER.to_owned(), token.to_owned()),
    };
    let kept = Kept { server_url: server.to_owned(), username, secret };
    let input = serde_json::to_vec(&kept)
        .map_err(|source| HelperError::Answer { program: program(name), source })?;
    run(name, "store", &input).map(drop)
}

/// Lets a helper forget credentials.
///
/// # Errors
/// [`HelperError`].
pub(crate) fn erase(name: &str, server: &str) -> Result<(), HelperError> {
    run(name, "erase", server.as_bytes()).map(drop)
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

fn run(name: &str, action: &str, input: &[u8]) -> Result<Vec<u8>, HelperError> {
    let program = program(name);
    let failed = |source| HelperError::Run { program: program.clone(), source };
    // The name is a file's: no path leads out of PATH.
    if name.contains('/') {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // One that has read enough may have ended.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // Helpers say on standard output what went wrong.
    let message = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Err(HelperError::Failed { program, message })
}
