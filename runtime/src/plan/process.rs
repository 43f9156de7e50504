//! The `process` of a specification, taken apart: who runs what, where, with which limits.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::{
    IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};

use super::{PlanError, c_string};
use crate::security::capabilities::CapabilityPlan;
use crate::security::rlimits::RlimitPlan;
use crate::sys::process::SchedAttr;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsoleSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// CPUs that a process may use: before and after it has entered the container's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuAffinity {
    /// While the runtime still sets it up.
    pub initial: Option<Vec<u64>>,
    /// When the program starts.
    pub last: Option<Vec<u64>>,
}

/// A validated process of a container: the first one, or one that `exec` adds.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// Whether a pseudo-terminal becomes its standard streams.
    pub terminal: bool,
    /// The terminal's first size.
    pub console_size: Option<ConsoleSize>,
    /// The program and its arguments; never empty.
    pub args: Vec<CString>,
    /// The environment.
    pub env: Vec<CString>,
    /// The working directory, absolute.
    pub cwd: CString,
    /// User id inside the container.
    pub uid: u32,
    /// Group id inside the container.
    pub gid: u32,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// The five capability sets.
    pub capabilities: CapabilityPlan,
    /// Resource limits.
    pub rlimits: RlimitPlan,
    /// Whether execve(2) may no longer grant privileges.
    pub no_new_privileges: bool,
    /// AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// SELinux label.
    pub selinux_label: Option<String>,
    /// Preference of the out-of-memory killer.
    pub oom_score_adj: Option<i32>,
    /// Scheduling policy.
    pub scheduler: Option<SchedAttr>,
    /// I/O priority as ioprio_set(2) takes it.
    pub io_priority: Option<i32>,
    /// CPUs that `exec` starts on.
    pub exec_cpu_affinity: CpuAffinity,
}

impl ProcessPlan {
    /// Validates `process`.
    ///
    /// # Errors
    /// [`PlanError`] naming the field.
    pub fn from_spec(process: &Process) -> Result<Self, PlanError> {
        let args = c_strings("process.args", process.args().as_deref().unwrap_or_default())?;
        if args.first().is_none_or(|program| program.is_empty()) {
            return Err(PlanError::Missing { field: "process.args".to_owned() });
        }
        let cwd = process.cwd();
        if !cwd.is_absolute() {
            return Err(PlanError::NotAbsolute {
                field: "process.cwd".to_owned(),
                path: cwd.clone(),
            });
        }
        let user = process.user();
        Ok(Self {
            terminal: process.terminal().unwrap_or(false),
            console_size: process.console_size().and_then(|size| {
                let rows = u16::try_from(size.height()).ok()?;
                let columns = u16::try_from(size.width()).ok()?;
                Some(ConsoleSize { rows, columns })
            }),
            args,
            env: environment(process.env().as_deref().unwrap_or_default())?,
            cwd: path_string("process.cwd", cwd)?,
            uid: user.uid(),
            gid: user.gid(),
            umask: user.umask(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
            capabilities: capabilities(process)?,
            rlimits: RlimitPlan::from_spec(process.rlimits().as_deref().unwrap_or_default())
                .map_err(PlanError::Rlimits)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            apparmor_profile: non_empty(process.apparmor_profile()),
            selinux_label: non_empty(process.selinux_label()),
            oom_score_adj: process.oom_score_adj(),
            scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
            io_priority: process
                .io_priority()
                .as_ref()
                .map(|io| io_priority(io.class(), io.priority()))
                .transpose()?,
            exec_cpu_affinity: match process.exec_cpu_affinity() {
                None => CpuAffinity::default(),
                Some(affinity) => CpuAffinity {
                    initial: cpus("process.execCPUAffinity.initial", affinity.initial())?,
                    last: cpus("process.execCPUAffinity.final", affinity.cpu_affinity_final())?,
                },
            },
        })
    }
}

/// The kernel lets nobody inherit what is not in the bounding set; that is better told before the start.
fn capabilities(process: &Process) -> Result<CapabilityPlan, PlanError> {
    let plan = CapabilityPlan::from_spec(process.capabilities().as_ref());
    match plan.unbounded_inheritable() {
        None => Ok(plan),
        Some(value) => Err(PlanError::Invalid {
            field: "process.capabilities.inheritable".to_owned(),
            value,
            expected: "what is in process.capabilities.bounding too: operation not permitted",
        }),
    }
}

fn non_empty(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn c_strings(field: &str, words: &[String]) -> Result<Vec<CString>, PlanError> {
    words.iter().map(|word| c_string(field, word.as_bytes())).collect()
}

fn path_string(field: &str, path: &Path) -> Result<CString, PlanError> {
    c_string(field, path.as_os_str().as_bytes())
}

/// Of several settings of one variable the last counts, as with putenv(3); a program that reads
/// the first would otherwise see another value than one that reads the last.
fn environment(words: &[String]) -> Result<Vec<CString>, PlanError> {
    let mut names = std::collections::HashSet::with_capacity(words.len());
    let mut env = Vec::with_capacity(words.len() + 1);
    for word in words.iter().rev() {
        let name = word.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| PlanError::Invalid {
            field: "process.env".to_owned(),
            value: word.clone(),
            expected: "NAME=VALUE",
        })?;
        if names.insert(name) {
            env.push(c_string("process.env", word.as_bytes())?);
        }
    }
    env.reverse();
    Ok(env)
}

fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr, PlanError> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let priority = scheduler.priority().unwrap_or(0);
    if policy == libc::SCHED_DEADLINE {
        check_deadline(scheduler)?;
    }
    Ok(SchedAttr {
        size_bytes: 0,
        policy: policy.cast_unsigned(),
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| PlanError::Invalid {
            field: "process.scheduler.priority".to_owned(),
            value: priority.to_string(),
            expected: "a number from 0 to 99",
        })?,
        runtime_nsec: scheduler.runtime().unwrap_or(0),
        deadline_nsec: scheduler.deadline().unwrap_or(0),
        period_nsec: scheduler.period().unwrap_or(0),
    })
}

/// The kernel refuses these too, but with one word for all of them.
fn check_deadline(scheduler: &Scheduler) -> Result<(), PlanError> {
    /// What the kernel can count in, nanoseconds.
    const LEAST_RUNTIME: u64 = 1 << 10;
    let runtime = scheduler.runtime().unwrap_or(0);
    let deadline = scheduler.deadline().unwrap_or(0);
    let period = scheduler.period().filter(|period| *period != 0).unwrap_or(deadline);
    if (LEAST_RUNTIME..=deadline).contains(&runtime)
        && deadline <= period
        && i64::try_from(period).is_ok()
    {
        return Ok(());
    }
    Err(PlanError::Invalid {
        field: "process.scheduler".to_owned(),
        value: format!("runtime {runtime}, deadline {deadline}, period {period}"),
        expected: "for SCHED_DEADLINE: 1024 <= runtime <= deadline <= period, in nanoseconds",
    })
}

fn io_priority(class: IOPriorityClass, priority: i64) -> Result<i32, PlanError> {
    let level =
        i32::try_from(priority).ok().filter(|level| (0..8).contains(level)).ok_or_else(|| {
            PlanError::Invalid {
                field: "process.ioPriority.priority".to_owned(),
                value: priority.to_string(),
                expected: "a number from 0 to 7",
            }
        })?;
    let class = match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    Ok((class << 13) | level)
}

fn cpus(field: &str, list: &Option<String>) -> Result<Option<Vec<u64>>, PlanError> {
    match list.as_deref() {
        None | Some("") => Ok(None),
        Some(list) => parse_bit_list(list).map(Some).ok_or_else(|| PlanError::Invalid {
            field: field.to_owned(),
            value: list.to_owned(),
            expected: "a list such as 0-3,7",
        }),
    }
}

/// Parses a list such as `0-3,7` into a bit mask, lowest number first; `None` if it is malformed
/// or names a number above 8191, more than any kernel is built for.
#[must_use]
pub fn parse_bit_list(list: &str) -> Option<Vec<u64>> {
    const HIGHEST: usize = 8191;
    let mut mask: Vec<u64> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        for bit in first..=last {
            mask[bit / 64] |= 1 << (bit % 64);
        }
    }
    (!mask.is_empty()).then_some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(extra: &str) -> Result<ProcessPlan, PlanError> {
        let json = format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["sh"]{extra}}}"#);
        ProcessPlan::from_spec(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn times_that_no_deadline_can_have_are_named_before_the_kernel_refuses_them() {
        let plan = |runtime: u64, deadline: u64, period: u64| {
            let spec = serde_json::json!({"policy": "SCHED_DEADLINE",
                "runtime": runtime, "deadline": deadline, "period": period});
            scheduler(&serde_json::from_value(spec).unwrap())
        };

        for (runtime, deadline, period) in
            [(1024, 1024, 1024), (10_000, 20_000, 0), (2000, 3000, 4000)]
        {
            assert!(plan(runtime, deadline, period).is_ok(), "{runtime} {deadline} {period}");
        }
        for (runtime, deadline, period) in [
            (0, 2000, 2000),
            (1023, 2000, 2000),
            (2000, 0, 2000),
            (3000, 2000, 4000),
            (2000, 4000, 3000),
        ] {
            assert!(plan(runtime, deadline, period).is_err(), "{runtime} {deadline} {period}");
        }
    }

    #[test]
    fn the_last_setting_of_a_variable_counts_and_order_is_kept() {
        let plan = process(r#","env":["A=1","B=2","A=3","C="]"#).unwrap();

        assert_eq!(plan.env, [c"B=2".into(), c"A=3".into(), CString::from(c"C=")]);
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        let error = process(r#","env":["=x"]"#).unwrap_err();

        assert!(error.to_string().contains("process.env"), "{error}");
    }

    #[test]
    fn io_priority_is_class_above_level() {
        let class = || r#","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4}"#;

        assert_eq!(process(class()).unwrap().io_priority, Some((2 << 13) | 4));
    }

    #[test]
    fn bit_lists_parse_or_are_refused() {
        let cases = [
            ("0", Some(vec![1])),
            ("0-3,7", Some(vec![0x8f])),
            ("64", Some(vec![0, 1])),
            (" 1 , 2 ", Some(vec![6])),
            ("", None),
            ("3-1", None),
            ("99999", None),
            ("-1", None),
            ("a", None),
        ];
        for (list, mask) in cases {
            assert_eq!(parse_bit_list(list), mask, "{list:?}");
        }
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let json = r#"{"user":{"uid":0,"gid":0},"cwd":"tmp","args":["sh"]}"#;

        let error = ProcessPlan::from_spec(&serde_json::from_str(json).unwrap()).unwrap_err();

        assert!(matches!(error, PlanError::NotAbsolute { .. }), "{error}");
    }
}
