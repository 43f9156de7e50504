//! `keg login`: tries credentials with a registry, and keeps them.

use std::io::Read as _;

use clap::Args;
use keg_proto::keg::v1::{ErrorReason, LoginRequest, RegistryAuth};

use crate::client::Daemon;
use crate::credentials::{self, ConfigFile, CredentialError, Keeper};
use crate::failure::Failure;
use crate::terminal::{self, question};
use crate::{output, reference};

/// Longest password that is read from standard input.
const MAX_PASSWORD_BYTES: u64 = 64 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg login registry.example:5000
  keg login -u ci --password-stdin registry.example < token

Credentials are kept in ~/.docker/config.json, or with the credential helper that it names, where
other tools find them too.")]
pub(crate) struct LoginArgs {
    /// Password or access token, for all to see who can list processes: --password-stdin is better
    #[arg(short = 'p', long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// User name
    #[arg(short = 'u', long, value_name = "USER")]
    username: Option<String>,
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io", hide_default_value = true)]
    registry: String,
}

/// Nobody can be asked.
#[derive(Debug, thiserror::Error)]
#[error("standard input is no terminal, so nobody can be asked for {what}")]
struct NobodyToAsk {
    what: &'static str,
}

/// Nothing was given.
#[derive(Debug, thiserror::Error)]
#[error("{what} is empty")]
struct Empty {
    what: &'static str,
}

/// Logs in.
pub(crate) async fn run(args: LoginArgs, host: &str) -> Result<u8, Failure> {
    let registry = registry_name(&args.registry).to_owned();
    if args.password.is_some() {
        output::complain("WARNING: --password can be seen by others; use --password-stdin.\n");
    }
    let daemon = Daemon::connect(host).await?;
    let gives_some = args.username.is_some() || args.password.is_some();
    if !gives_some && try_existing(&daemon, &registry).await? {
        return Ok(0);
    }
    let auth = ask(args, &registry)?;
    try_out(&daemon, &registry, &auth).await?;
    let keeper = credentials::keep(&registry, &auth).map_err(Failure::client)?;
    if keeper == Keeper::File {
        let path = ConfigFile::to_change()
            .map_err(|error| Failure::client(CredentialError::File(error)))?
            .path()
            .display()
            .to_string();
        output::complain(&format!(
            "WARNING: the password is kept unencrypted in {path}; a credential helper (\"credsStore\" \
             there) hides it.\n"
        ));
    }
    output::print_line("Login Succeeded")?;
    Ok(0)
}

/// `https://index.docker.io/v1/` and `https://host:5000` are written too.
pub(crate) fn registry_name(typed: &str) -> &str {
    let rest = typed.strip_prefix("https://").or_else(|| typed.strip_prefix("http://"));
    let host = rest.unwrap_or(typed).split('/').next().unwrap_or(typed);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// Tries what is kept already; returns whether the registry takes it.
async fn try_existing(daemon: &Daemon, registry: &str) -> Result<bool, Failure> {
    let Some(auth) = credentials::find(registry).map_err(Failure::client)? else {
        return Ok(false);
    };
    output::print_line("Authenticating with existing credentials...")?;
    match try_out(daemon, registry, &auth).await {
        Ok(()) => {
            output::print_line("Login Succeeded")?;
            Ok(true)
        }
        Err(failure) if failure.reason() == Some(ErrorReason::RegistryUnauthorized) => {
            output::complain("The registry does not take them any more.\n");
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}

async fn try_out(daemon: &Daemon, registry: &str, auth: &RegistryAuth) -> Result<(), Failure> {
    let request = LoginRequest { registry: registry.to_owned(), auth: Some(auth.clone()) };
    let answer = daemon.registries().login(request).await?.into_inner();
    if !answer.was_asked {
        let name = reference::familiar(registry);
        output::complain(&format!("{name} did not ask for credentials: they are kept untried.\n"));
    }
    Ok(())
}

/// The credentials of the flags; what is missing is asked for.
fn ask(args: LoginArgs, registry: &str) -> Result<RegistryAuth, Failure> {
    let nobody = |what| {
        let remedy = "give --username and --password-stdin";
        Failure::senseless(NobodyToAsk { what }).with_remedy(remedy)
    };
    let username = match args.username {
        Some(username) => username,
        None if !terminal::stdin_is_terminal() => return Err(nobody("a user name")),
        None => question::ask(&format!("Username for {registry}: "))?,
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => password_from_stdin()?,
        None if !terminal::stdin_is_terminal() => return Err(nobody("a password")),
        None => question::ask_secret("Password: ")?,
    };
    for (value, what) in [(&username, "the user name"), (&password, "the password")] {
        if value.is_empty() {
            return Err(Failure::senseless(Empty { what }));
        }
    }
    Ok(RegistryAuth { username, password, ..RegistryAuth::default() })
}

/// Everything on standard input, without the line feed that `echo` adds.
fn password_from_stdin() -> Result<String, Failure> {
    let mut password = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_PASSWORD_BYTES)
        .read_to_string(&mut password)
        .map_err(|error| Failure::stream(&error, "read the password from standard input"))?;
    Ok(password.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_known_by_their_host() {
        let table = [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://host:5000/", "host:5000"),
            ("localhost:5000", "localhost:5000"),
        ];
        for (typed, expected) in table {
            assert_eq!(registry_name(typed), expected);
        }
    }
}
