//! Credentials for registries: kept by this program's user, sent with the calls that need them.
//!
//! ```text
//! ~/.docker/config.json   credHelpers[REGISTRY] ──▶ docker-credential-NAME get
//!                         credsStore            ──▶ docker-credential-NAME get
//!                         auths[REGISTRY]       ──▶ user:password in base64, or a token
//! ```
//!
//! The file and the helpers are Docker's, so that a login by one program counts for the other. The
//! daemon keeps nothing of it.

mod file;
mod helper;

use keg_proto::keg::v1::RegistryAuth;

pub(crate) use file::{ConfigFile, FileError};
pub(crate) use helper::HelperError;

use crate::{output, reference};

/// Key of the default registry, in the file and for helpers.
const DEFAULT_KEY: &str = "https://index.docker.io/v1/";

/// Why credentials cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// The configuration cannot be used.
    #[error(transparent)]
    File(FileError),
    /// A helper failed.
    #[error(transparent)]
    Helper(HelperError),
}

/// Where a registry's credentials are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// In the file itself, hardly hidden.
    File,
    /// With the program `docker-credential-NAME`.
    Helper(String),
}

/// The credentials for an image's registry. Where they cannot be read, that is said, and the registry
/// is asked without.
pub(crate) fn for_image(image: &str) -> Option<RegistryAuth> {
    for_registry(reference::registry(image))
}

/// As [`for_image`], for a registry.
pub(crate) fn for_registry(registry: &str) -> Option<RegistryAuth> {
    match find(registry) {
        Ok(found) => found,
        Err(error) => {
            let chain = crate::failure::Failure::client(error).render();
            output::complain(&chain.replacen(
                "keg: ",
                "WARNING: going on without credentials: ",
                1,
            ));
            None
        }
    }
}

/// The credentials for a registry, if there are any.
///
/// # Errors
/// [`CredentialError`] if the file or the helper cannot be used.
pub(crate) fn find(registry: &str) -> Result<Option<RegistryAuth>, CredentialError> {
    let Some(file) = ConfigFile::of_user().map_err(CredentialError::File)? else {
        return Ok(None);
    };
    match file.keeper(registry) {
        Keeper::File => Ok(file.find(registry)),
        Keeper::Helper(name) => helper::get(&name, key(registry)).map_err(CredentialError::Helper),
    }
}

/// Keeps credentials; returns where.
///
/// # Errors
/// [`CredentialError`] if the file or the helper cannot be used.
pub(crate) fn keep(registry: &str, auth: &RegistryAuth) -> Result<Keeper, CredentialError> {
    let mut file = ConfigFile::to_change().map_err(CredentialError::File)?;
    let keeper = file.keeper(registry);
    match &keeper {
        Keeper::File => file.set(registry, Some(auth)),
        Keeper::Helper(name) => {
            helper::store(name, key(registry), auth).map_err(CredentialError::Helper)?;
            file.mark(registry);
        }
    }
    file.write().map_err(CredentialError::File)?;
    Ok(keeper)
}

/// Forgets a registry's credentials; returns whether there were any.
///
/// # Errors
/// [`CredentialError`] if the file or the helper cannot be used.
pub(crate) fn forget(registry: &str) -> Result<bool, CredentialError> {
    let Some(mut file) = ConfigFile::of_user().map_err(CredentialError::File)? else {
        return Ok(false);
    };
    let mut was_there = false;
    if let Keeper::Helper(name) = file.keeper(registry) {
        was_there = helper::get(&name, key(registry)).map_err(CredentialError::Helper)?.is_some();
        if was_there {
            helper::erase(&name, key(registry)).map_err(CredentialError::Helper)?;
        }
    }
    if file.has(registry) {
        was_there = true;
        file.set(registry, None);
        file.write().map_err(CredentialError::File)?;
    }
    Ok(was_there)
}

/// What a registry is called in the file and by helpers.
fn key(registry: &str) -> &str {
    if registry == "docker.io" { DEFAULT_KEY } else { registry }
}
