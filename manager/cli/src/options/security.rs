//! `--security-opt`.

/// What of the walls around a process is changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    /// A set-user-id program gains nothing.
    pub(crate) no_new_privileges: bool,
    /// "" for the default system calls, or "unconfined".
    pub(crate) seccomp: String,
}

/// An option that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no security option {text:?}; there are no-new-privileges, seccomp=unconfined and seccomp=builtin"
)]
pub(crate) struct SecurityOptionError {
    text: String,
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
            _ => return Err(SecurityOptionError { text: text.clone() }),
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
        assert_eq!(options, SecurityOptions { no_new_privileges: true, seccomp });
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_not_ignored() {
        for text in ["apparmor=x", "seccomp=/profile.json", "seccomp", "no-new-privileges=maybe"] {
            assert!(parse(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
