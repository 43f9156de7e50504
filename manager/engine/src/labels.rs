//! Labels of AppArmor and SELinux, where the host has them.
//!
//! | asked for | AppArmor | SELinux |
//! | --- | --- | --- |
//! | nothing | the profile `keg-default`, if it is loaded | none, as Docker's default |
//! | a label | that, if it can be had; else an error | that, if it can be had; else an error |
//! | `unconfined`, `disable` | none | none |
//!
//! A label that somebody relies on is never left out in silence.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::error::EngineError;
use crate::model::HostConfig;

/// The profile of containers that ask for none.
pub const DEFAULT_PROFILE: &str = "keg-default";
/// That profile's text.
const DEFAULT_PROFILE_TEXT: &str = include_str!("labels/keg-default.apparmor");
/// Whether AppArmor is enabled.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
/// The profiles that are loaded: `NAME (MODE)` each.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// There if SELinux is enabled.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// What the distribution's policy calls a container's process.
const SELINUX_CONTEXTS: &str = "/etc/selinux/targeted/contexts/lxc_contexts";
/// That, where the policy does not say.
const SELINUX_CONTEXT: &str = "system_u:system_r:container_t:s0";

/// The host's modules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Modules {
    /// AppArmor's loaded profiles; `None` without AppArmor.
    pub profiles: Option<BTreeSet<String>>,
    /// What a container's process is labelled with; `None` without SELinux.
    pub selinux_context: Option<String>,
}

/// Labels of a container's processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    /// AppArmor's profile.
    pub apparmor: Option<String>,
    /// SELinux' context.
    pub selinux: Option<String>,
}

impl Modules {
    /// Asks the kernel.
    pub fn ask() -> Self {
        let enabled = fs::read(APPARMOR).is_ok_and(|text| text.starts_with(b"Y"));
        let profiles = enabled.then(|| fs::read_to_string(PROFILES).unwrap_or_default());
        let has_selinux = fs::exists(SELINUX).unwrap_or(false);
        Self {
            profiles: profiles.map(|text| names(&text)),
            selinux_context: has_selinux
                .then(|| context(&fs::read_to_string(SELINUX_CONTEXTS).unwrap_or_default())),
        }
    }

    /// Names of the modules, as `info` has them.
    pub fn names(&self) -> Vec<&'static str> {
        let apparmor = self.profiles.as_ref().map(|_| "apparmor");
        let selinux = self.selinux_context.as_ref().map(|_| "selinux");
        apparmor.into_iter().chain(selinux).collect()
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

    /// Decides on a container's labels.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] for a label that cannot be had here.
    pub fn choose(&self, host: &HostConfig) -> Result<Labels, EngineError> {
        Ok(Labels { apparmor: self.apparmor(host)?, selinux: self.selinux(host)? })
    }

    fn apparmor(&self, host: &HostConfig) -> Result<Option<String>, EngineError> {
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

    fn selinux(&self, host: &HostConfig) -> Result<Option<String>, EngineError> {
        let mut parts: Option<Vec<String>> = None;
        for option in &host.selinux_options {
            if option == "disable" {
                parts = None;
                continue;
            }
            let Some(context) = &self.selinux_context else {
                return Err(invalid(format!(
                    "label={option}: SELinux is not enabled in this kernel; leave it out"
                )));
            };
            // USER:ROLE:TYPE:LEVEL; a level has colons of its own.
            let parts =
                parts.get_or_insert_with(|| context.splitn(4, ':').map(str::to_owned).collect());
            let (key, value) = option.split_once(':').unwrap_or((option, ""));
            let place = ["user", "role", "type", "level"].iter().position(|part| *part == key);
            match place.and_then(|place| parts.get_mut(place)).filter(|_| !value.is_empty()) {
                Some(part) => value.clone_into(part),
                None => {
                    return Err(invalid(format!(
                        "label={option}: give user:, role:, type: or level:, or \"disable\""
                    )));
                }
            }
        }
        Ok(parts.map(|parts| parts.join(":")))
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

/// The context of processes in a file of `process = "…"` lines.
fn context(contexts: &str) -> String {
    let value = contexts
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "process")
        .map(|(_, value)| value.trim().trim_matches('"'));
    value.filter(|value| value.split(':').count() >= 4).unwrap_or(SELINUX_CONTEXT).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        Modules {
            profiles: Some(names("keg-default (enforce)\n/usr/sbin/mysqld (complain)\n")),
            selinux_context: Some(context("process = \"u:r:container_t:s0\"\nfile = \"x\"\n")),
        }
    }

    fn host(apparmor: &str, selinux: &[&str]) -> HostConfig {
        HostConfig {
            apparmor_profile: apparmor.to_owned(),
            selinux_options: selinux.iter().map(|text| (*text).to_owned()).collect(),
            ..HostConfig::default()
        }
    }

    #[test]
    fn a_container_has_the_default_profile_unless_it_asks_for_another() {
        let profile = |apparmor: &str| modules().choose(&host(apparmor, &[])).unwrap().apparmor;

        assert_eq!(profile("").as_deref(), Some(DEFAULT_PROFILE));
        assert_eq!(profile("/usr/sbin/mysqld").as_deref(), Some("/usr/sbin/mysqld"));
        assert_eq!(profile("unconfined"), None);
        let privileged = HostConfig { privileged: true, ..HostConfig::default() };
        assert_eq!(modules().choose(&privileged).unwrap(), Labels::default());
    }

    #[test]
    fn a_label_is_made_of_the_policys_and_of_what_was_asked_for() {
        let label = |options: &[&str]| modules().choose(&host("", options)).unwrap().selinux;

        assert_eq!(label(&[]), None);
        assert_eq!(label(&["disable"]), None);
        let changed = label(&["type:spc_t", "level:s0:c1,c2"]);
        assert_eq!(changed.as_deref(), Some("u:r:spc_t:s0:c1,c2"));
        assert_eq!(context("nothing"), SELINUX_CONTEXT);
    }

    #[test]
    fn what_cannot_be_had_is_refused_and_not_left_out() {
        let table = [
            (Modules::default(), host("x", &[]), "AppArmor is not enabled"),
            (modules(), host("x", &[]), "no such profile is loaded"),
            (Modules::default(), host("", &["type:x"]), "SELinux is not enabled"),
            (modules(), host("", &["colour:x"]), "give user:"),
            (modules(), host("", &["type:"]), "give user:"),
        ];
        for (modules, host, expected) in table {
            let error = modules.choose(&host).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let nothing = Modules::default().choose(&host("unconfined", &["disable"])).unwrap();
        assert_eq!(nothing, Labels::default());
    }

    #[test]
    fn the_default_profile_has_its_name() {
        assert!(DEFAULT_PROFILE_TEXT.contains(&format!("profile {DEFAULT_PROFILE} ")));
    }
}
