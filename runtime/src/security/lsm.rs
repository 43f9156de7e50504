//! The labels under which a program is executed: AppArmor's profile and SELinux' context.
//!
//! Both are handed to the kernel through `attr/exec` of the process itself, and take effect at its
//! next execve(2). A label that is asked for and cannot be had is an error, never ignored: the
//! program would run without the confinement that someone relies on.

use std::path::Path;

use nix::errno::Errno;

use crate::procfs::Procfs;

/// The label of a process that is about to execute its program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecLabel {
    /// Where it goes below the process' own directory, and what is written.
    write: Option<(&'static str, Vec<u8>)>,
    /// What keyrings that the process makes are labelled with, so that its program may use them.
    keys: Option<Vec<u8>>,
}

/// Why a label cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A profile of AppArmor is asked for on a machine without it.
    #[error(
        "process.apparmorProfile is {profile:?}, but AppArmor is not enabled in this kernel; \
         enable it or drop the profile"
    )]
    NoAppArmor {
        /// The profile.
        profile: String,
    },
    /// A context of SELinux is asked for on a machine without it.
    #[error(
        "process.selinuxLabel is {label:?}, but SELinux is not enabled in this kernel; \
         enable it or drop the label"
    )]
    NoSelinux {
        /// The context.
        label: String,
    },
    /// Both are asked for, and a process has one label.
    #[error("process.apparmorProfile and process.selinuxLabel exclude each other")]
    Both,
    /// The label cannot be written to the kernel.
    #[error("process.{field}: {label:?} holds a zero byte")]
    ZeroByte {
        /// Which of the two.
        field: &'static str,
        /// The label.
        label: String,
    },
}

impl ExecLabel {
    /// Checks that what the bundle asks for can be had on this machine.
    ///
    /// # Errors
    /// [`LabelError`], if the module is not enabled.
    pub fn prepare(
        apparmor_profile: Option<&str>,
        selinux_label: Option<&str>,
    ) -> Result<Self, LabelError> {
        let keys = selinux_label.map(|label| label.as_bytes().to_vec());
        let write = match (apparmor_profile, selinux_label) {
            (None, None) => None,
            (Some(_), Some(_)) => return Err(LabelError::Both),
            (Some(profile), None) => {
                refuse_zero("apparmorProfile", profile)?;
                if !apparmor_is_enabled() {
                    return Err(LabelError::NoAppArmor { profile: profile.into() });
                }
                // Where several modules are stacked (Linux 5.8), AppArmor has a directory of its own.
                let stacked = Path::new("/proc/self/attr/apparmor/exec").exists();
                let file = if stacked { "attr/apparmor/exec" } else { "attr/exec" };
                Some((file, format!("exec {profile}").into_bytes()))
            }
            (None, Some(label)) => {
                refuse_zero("selinuxLabel", label)?;
                if !selinux_is_enabled() {
                    return Err(LabelError::NoSelinux { label: label.into() });
                }
                Some(("attr/exec", label.as_bytes().to_vec()))
            }
        };
        Ok(Self { write, keys })
    }

    /// Makes the kernel label keyrings of this process as its program will be, until the next
    /// execve(2).
    ///
    /// # Errors
    /// The kernel's answer: `EINVAL` if its policy has no such label.
    pub fn label_keys(&self, procfs: &Procfs) -> Result<(), Errno> {
        let Some(label) = &self.keys else { return Ok(()) };
        match procfs.write("thread-self/attr/keycreate", label) {
            // No key management in this kernel.
            Err(Errno::ENOENT) => Ok(()),
            outcome => outcome,
        }
    }

    /// Hands the label to the kernel for the next execve(2) of this process.
    ///
    /// `procfs` must show the calling process; it is opened before any mount of the container could
    /// hide it.
    ///
    /// # Errors
    /// The kernel's answer: `ENOENT` or `EINVAL` if the profile is not loaded.
    pub fn apply(&self, procfs: &Procfs) -> Result<(), Errno> {
        match &self.write {
            None => Ok(()),
            Some((file, label)) => procfs.write(format!("thread-self/{file}"), label),
        }
    }
}

/// Whether AppArmor is enabled in this kernel.
pub fn apparmor_is_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether SELinux is enabled in this kernel.
pub fn selinux_is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn refuse_zero(field: &'static str, label: &str) -> Result<(), LabelError> {
    if label.contains('\0') {
        return Err(LabelError::ZeroByte { field, label: label.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_label_there_is_nothing_to_do() {
        assert_eq!(ExecLabel::prepare(None, None), Ok(ExecLabel::default()));
    }

    #[test]
    fn a_label_without_its_module_is_refused() {
        if !apparmor_is_enabled() {
            let profile = "docker-default".to_owned();
            let refused = ExecLabel::prepare(Some(&profile), None);
            assert_eq!(refused, Err(LabelError::NoAppArmor { profile }));
        }
        if !selinux_is_enabled() {
            let label = "system_u:system_r:container_t:s0".to_owned();
            let refused = ExecLabel::prepare(None, Some(&label));
            assert_eq!(refused, Err(LabelError::NoSelinux { label }));
        }
    }

    #[test]
    fn two_labels_are_one_too_many() {
        assert_eq!(ExecLabel::prepare(Some("a"), Some("b")), Err(LabelError::Both));
    }
}
