//! `--security-opt`.

/// What of the walls around a process is changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    /// A set-user-id program gains nothing.
    pub(crate) no_new_privileges: bool,
    /// "" for the default system calls, or "unconfined".
    pub(crate) seccomp: String,
    /// A profile of system calls in place of the default, or "".
    pub(crate) profile: String,
    /// All of /proc and /sys is shown.
    pub(crate) system_paths_unconfined: bool,
    /// Paths that are invisible, too.
    pub(crate) masked: Vec<String>,
    /// Paths that are shown, or "ALL".
    pub(crate) unmasked: Vec<String>,
    /// AppArmor's profile, or "".
    pub(crate) apparmor: String,
    /// What is changed of SELinux' label.
    pub(crate) labels: Vec<String>,
}

/// Why an option cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityOptionError {
    /// It does not exist.
    #[error(
        "there is no security option {text:?}; there are no-new-privileges, seccomp=FILE|unconfined|builtin, apparmor=PROFILE, label=user|role|type|level|filetype:VALUE, label=disable, systempaths=unconfined, mask=PATH:… and unmask=PATH:…|ALL"
    )]
    Unknown { text: String },
    /// Its profile cannot be read.
    #[error("cannot read the seccomp profile {path:?}")]
    Profile {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// Understands `no-new-privileges[=true|false]` and `seccomp=unconfined|builtin`, with `:` for `=`
/// as older scripts have it.
///
/// # Errors
/// [`SecurityOptionError`] for anything else.
pub(crate) fn parse(texts: &[String]) -> Result<SecurityOptions, SecurityOptionError> {
    let mut options = SecurityOptions::default();
    for text in texts {
        let (key, value) = match text.split_once(['=', ':']) {
            Some((key, value)) => (key, Some(value)),
            None => (text.as_str(), None),
        };
        match (key, value) {
            ("no-new-privileges", None | Some("true")) => options.no_new_privileges = true,
            ("no-new-privileges", Some("false")) => options.no_new_privileges = false,
            ("seccomp", Some("unconfined")) => options.seccomp = "unconfined".to_owned(),
            ("seccomp", Some("builtin")) => options.seccomp.clear(),
            ("seccomp", Some(path)) if path.contains(['/', '.']) => {
                options.profile = std::fs::read_to_string(path).map_err(|source| {
                    SecurityOptionError::Profile { path: path.to_owned(), source }
                })?;
            }
            ("apparmor", Some(profile)) if !profile.is_empty() => {
                profile.clone_into(&mut options.apparmor);
            }
            ("label", Some(label)) if !label.is_empty() => options.labels.push(label.to_owned()),
            ("systempaths", Some("unconfined")) => options.system_paths_unconfined = true,
            ("mask", Some(paths)) => {
                options.masked.extend(paths.split(':').map(str::to_owned));
            }
            ("unmask", Some(paths)) => {
                options.unmasked.extend(paths.split(':').map(str::to_owned));
            }
            _ => return Err(SecurityOptionError::Unknown { text: text.clone() }),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_old_and_new_form() {
        let texts = ["no-new-privileges:true", "seccomp=unconfined"].map(str::to_owned);

        let options = parse(&texts).expect("options");

        let seccomp = "unconfined".to_owned();
        let expected =
            SecurityOptions { no_new_privileges: true, seccomp, ..SecurityOptions::default() };
        assert_eq!(options, expected);
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_not_ignored() {
        for text in
            ["apparmor=", "label", "seccomp=/profile.json", "seccomp", "no-new-privileges=maybe"]
        {
            assert!(parse(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
