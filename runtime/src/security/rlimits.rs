//! Resource limits of a process (setrlimit(2); runtime-spec, config.md, “POSIX process”).

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

/// The limits that a process is to have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RlimitPlan {
    limits: Vec<Limit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    kind: PosixRlimitType,
    resource: Resource,
    soft: u64,
    hard: u64,
}

/// Why the limits of a bundle cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RlimitError {
    /// The same limit is given twice.
    #[error("process.rlimits[{index}]: {kind} is given twice")]
    Duplicate {
        /// Position of the second one.
        index: usize,
        /// The limit's name.
        kind: PosixRlimitType,
    },
    /// The soft limit is above the hard one.
    #[error(
        "process.rlimits[{index}]: the soft limit {soft} of {kind} is above the hard limit {hard}"
    )]
    SoftAboveHard {
        /// Position in the list.
        index: usize,
        /// The limit's name.
        kind: PosixRlimitType,
        /// The soft limit.
        soft: u64,
        /// The hard limit.
        hard: u64,
    },
    /// The kernel refuses.
    #[error("process.rlimits: set {kind} to {soft}:{hard}{hint}")]
    Refused {
        /// The limit's name.
        kind: PosixRlimitType,
        /// The soft limit.
        soft: u64,
        /// The hard limit.
        hard: u64,
        /// What the user should know, or nothing.
        hint: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
}

/// Where [`RlimitPlan::apply`] failed: the position in the bundle's list, and the kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RlimitFailure {
    /// Position in the list.
    pub index: usize,
    /// The kernel's answer.
    pub errno: Errno,
}

impl RlimitPlan {
    /// Takes over what the bundle says.
    ///
    /// # Errors
    /// [`RlimitError::Duplicate`] and [`RlimitError::SoftAboveHard`], as the runtime-spec demands.
    pub fn from_spec(spec: &[PosixRlimit]) -> Result<Self, RlimitError> {
        let mut limits: Vec<Limit> = Vec::with_capacity(spec.len());
        for (index, limit) in spec.iter().enumerate() {
            let (kind, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
            if limits.iter().any(|limit| limit.kind == kind) {
                return Err(RlimitError::Duplicate { index, kind });
            }
            if soft > hard {
                return Err(RlimitError::SoftAboveHard { index, kind, soft, hard });
            }
            limits.push(Limit { kind, resource: resource(kind), soft, hard });
        }
        Ok(Self { limits })
    }

    /// Whether every hard limit is at most this process's, which any process may set for itself.
    #[must_use]
    pub fn is_within_own(&self) -> bool {
        let within = |limit: &Limit| {
            getrlimit(limit.resource).is_ok_and(|(_, allowed)| limit.hard <= allowed)
        };
        self.limits.iter().all(within)
    }

    /// Sets the limits of this process. Allocates nothing.
    ///
    /// # Errors
    /// Which of them the kernel refused; [`RlimitPlan::explain`] makes it readable.
    pub fn apply(&self) -> Result<(), RlimitFailure> {
        for (index, limit) in self.limits.iter().enumerate() {
            setrlimit(limit.resource, limit.soft, limit.hard)
                .map_err(|errno| RlimitFailure { index, errno })?;
        }
        Ok(())
    }

    /// Sets the limits of another process. Allocates nothing.
    ///
    /// # Errors
    /// As [`RlimitPlan::apply`].
    pub fn apply_to(&self, pid: Pid) -> Result<(), RlimitFailure> {
        for (index, limit) in self.limits.iter().enumerate() {
            crate::sys::process::set_limit(pid, limit.resource, limit.soft, limit.hard)
                .map_err(|errno| RlimitFailure { index, errno })?;
        }
        Ok(())
    }

    /// Tells what a failure means: which limit, and what was in the way.
    pub fn explain(&self, failure: RlimitFailure) -> Option<RlimitError> {
        let Limit { kind, resource, soft, hard } = *self.limits.get(failure.index)?;
        let hint = match (failure.errno, getrlimit(resource)) {
            (Errno::EPERM, Ok((_, allowed))) if hard > allowed => {
                let allowed = match allowed {
                    RLIM_INFINITY => "unlimited".to_owned(),
                    number => number.to_string(),
                };
                format!(
                    ": the hard limit here is {allowed}, and raising it needs CAP_SYS_RESOURCE, or \
                     for RLIMIT_NOFILE also a higher fs.nr_open; ask for at most {allowed}"
                )
            }
            _ => String::new(),
        };
        Some(RlimitError::Refused { kind, soft, hard, hint, errno: failure.errno })
    }
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(limits: &[(&str, u64, u64)]) -> Vec<PosixRlimit> {
        let one = |&(kind, soft, hard): &(&str, u64, u64)| {
            serde_json::from_value(serde_json::json!({ "type": kind, "soft": soft, "hard": hard }))
                .unwrap()
        };
        limits.iter().map(one).collect()
    }

    #[test]
    fn a_limit_given_twice_is_refused() {
        let spec = limits(&[("RLIMIT_CORE", 0, 0), ("RLIMIT_CPU", 1, 1), ("RLIMIT_CORE", 0, 1)]);

        let refused = RlimitPlan::from_spec(&spec).unwrap_err();

        let kind = PosixRlimitType::RlimitCore;
        assert_eq!(refused, RlimitError::Duplicate { index: 2, kind });
    }

    #[test]
    fn a_soft_limit_above_the_hard_one_is_refused() {
        let refused = RlimitPlan::from_spec(&limits(&[("RLIMIT_CORE", 2, 1)])).unwrap_err();

        assert!(matches!(refused, RlimitError::SoftAboveHard { index: 0, .. }));
    }

    #[test]
    fn limits_that_anybody_may_set_are_told_from_those_that_raise() {
        let (_, allowed) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        for (hard, within) in [(allowed - 1, true), (allowed, true), (allowed + 1, false)] {
            let plan = RlimitPlan::from_spec(&limits(&[
                ("RLIMIT_CORE", 0, 0),
                ("RLIMIT_NOFILE", 5, hard),
            ]));
            assert_eq!(plan.unwrap().is_within_own(), within, "{hard} of {allowed}");
        }
        assert!(RlimitPlan::default().is_within_own());
    }

    #[test]
    fn a_limit_that_cannot_be_raised_is_named_with_the_remedy() {
        let plan = RlimitPlan::from_spec(&limits(&[("RLIMIT_NOFILE", 5, 1 << 60)])).unwrap();

        let failure = plan.apply().unwrap_err();
        let explained = plan.explain(failure).unwrap().to_string();

        assert_eq!(failure, RlimitFailure { index: 0, errno: Errno::EPERM });
        assert!(explained.contains("RLIMIT_NOFILE to 5:1152921504606846976"), "{explained}");
        assert!(explained.contains("CAP_SYS_RESOURCE"), "{explained}");
    }
}
