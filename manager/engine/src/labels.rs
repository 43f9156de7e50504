//! AppArmor's profiles, where the host has it; for SELinux see [`crate::selinux`].
//!
//! | asked for | profile |
//! | --- | --- |
//! | nothing | `keg-default`, if it is loaded |
//! | a profile | that, if it can be had; else an error |
//! | `unconfined` | none |
//!
//! A profile that somebody relies on is never left out in silence.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::error::EngineError;
use crate::model::HostConfig;
use crate::selinux::SelinuxLabels;

/// The profile of containers that ask for none.
pub const DEFAULT_PROFILE: &str = "keg-default";
/// That profile's text.
const DEFAULT_PROFILE_TEXT: &str = include_str!("labels/keg-default.apparmor");
/// Whether AppArmor is enabled.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
/// The profiles that are loaded: `NAME (MODE)` each.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// The host's AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Modules {
    /// Its loaded profiles; `None` without AppArmor.
    pub profiles: Option<BTreeSet<String>>,
}

/// Labels of a container's processes and files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    /// AppArmor's profile.
    pub apparmor: Option<String>,
    /// SELinux' labels.
    pub selinux: Option<SelinuxLabels>,
}

impl Modules {
    /// Asks the kernel.
    pub fn ask() -> Self {
        let enabled = fs::read(APPARMOR).is_ok_and(|text| text.starts_with(b"Y"));
        let profiles = enabled.then(|| fs::read_to_string(PROFILES).unwrap_or_default());
        Self { profiles: profiles.map(|text| names(&text)) }
    }

    /// Whether the kernel has it, and it is enabled.
    pub fn is_enabled(&self) -> bool {
        self.profiles.is_some()
    }

    /// Loads the default profile if AppArmor is enabled and does not have it; returns what an
    /// operator should know if that fails.
    pub fn load_default(&self) -> Option<String> {
        let profiles = self.profiles.as_ref()?;
        if profiles.contains(DEFAULT_PROFILE) {
            return None;
        }
        let failed = |why: String| {
            Some(format!(
                "AppArmor's profile {DEFAULT_PROFILE} cannot be loaded, so that containers have \
                 none: {why}; install apparmor_parser (Debian: apparmor) and start kegd anew"
            ))
        };
        let parser = Command::new("apparmor_parser")
            .arg("-Kr")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut parser = match parser {
            Ok(parser) => parser,
            Err(error) => return failed(error.to_string()),
        };
        if let Some(mut stdin) = parser.stdin.take() {
            // If it does not read, it says why.
            let _ = stdin.write_all(DEFAULT_PROFILE_TEXT.as_bytes());
        }
        match parser.wait_with_output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => failed(error.to_string()),
        }
    }

    /// Decides on a container's profile.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] for one that cannot be had here.
    pub fn choose(&self, host: &HostConfig) -> Result<Option<String>, EngineError> {
        let asked = host.apparmor_profile.as_str();
        if asked == "unconfined" || (asked.is_empty() && host.privileged) {
            return Ok(None);
        }
        let Some(profiles) = &self.profiles else {
            return match asked {
                "" => Ok(None),
                _ => Err(invalid(format!(
                    "apparmor={asked}: AppArmor is not enabled in this kernel; leave it out"
                ))),
            };
        };
        if asked.is_empty() {
            return Ok(profiles.contains(DEFAULT_PROFILE).then(|| DEFAULT_PROFILE.to_owned()));
        }
        match profiles.contains(asked) {
            true => Ok(Some(asked.to_owned())),
            false => Err(invalid(format!(
                "apparmor={asked}: no such profile is loaded; load it with apparmor_parser"
            ))),
        }
    }
}

fn invalid(problem: String) -> EngineError {
    EngineError::InvalidField { field: "security_opt", problem }
}

/// The names in a list of `NAME (MODE)`.
fn names(profiles: &str) -> BTreeSet<String> {
    let name = |line: &str| line.rsplit_once(" (").map(|(name, _)| name.to_owned());
    profiles.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        let loaded = "keg-default (enforce)\n/usr/sbin/mysqld (complain)\n";
        Modules { profiles: Some(names(loaded)) }
    }

    fn host(profile: &str) -> HostConfig {
        HostConfig { apparmor_profile: profile.to_owned(), ..HostConfig::default() }
    }

    #[test]
    fn a_container_has_the_default_profile_unless_it_asks_for_another() {
        let profile = |asked: &str| modules().choose(&host(asked)).unwrap();

        assert_eq!(profile("").as_deref(), Some(DEFAULT_PROFILE));
        assert_eq!(profile("/usr/sbin/mysqld").as_deref(), Some("/usr/sbin/mysqld"));
        assert_eq!(profile("unconfined"), None);
        let privileged = HostConfig { privileged: true, ..HostConfig::default() };
        assert_eq!(modules().choose(&privileged).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_had_is_refused_and_not_left_out() {
        let table = [
            (Modules::default(), "AppArmor is not enabled"),
            (modules(), "no such profile is loaded"),
        ];
        for (modules, expected) in table {
            let error = modules.choose(&host("x")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(Modules::default().choose(&host("unconfined")).unwrap(), None);
    }

    #[test]
    fn the_default_profile_has_its_name() {
        assert!(DEFAULT_PROFILE_TEXT.contains(&format!("profile {DEFAULT_PROFILE} ")));
    }
}
