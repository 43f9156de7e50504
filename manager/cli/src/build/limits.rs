//! Flags for limits of steps.

use clap::Args;
use keg_proto::keg::v1::Resources;

use crate::options::size::{self, AmountError};

// No doc comment: see `commands`.
#[derive(Debug, Args)]
pub(crate) struct StepLimits {
    /// Cgroup to make those of steps in
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    pub(crate) cgroup_parent: String,
    /// Microseconds of the period that --cpu-quota is for (default: 100000)
    #[arg(long, value_name = "USEC", default_value_t = 0, hide_default_value = true)]
    cpu_period: u64,
    /// Microseconds of processor time of a step per period
    #[arg(
        long,
        value_name = "USEC",
        default_value_t = 0,
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    cpu_quota: i64,
    /// Weight of a step's share of processor time, 2 to 262144
    #[arg(
        short = 'c',
        long,
        value_name = "WEIGHT",
        default_value_t = 0,
        hide_default_value = true
    )]
    cpu_shares: u64,
    /// Processors that steps may run on, as in 0-3,6
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// Memory nodes that steps may use, as in 0-1
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    cpuset_mems: String,
    /// Memory limit of a step, as in 512m
    #[arg(short = 'm', long, value_name = "BYTES")]
    memory: Option<String>,
    /// Limit of memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
}

impl StepLimits {
    /// The limits that the flags name; all others are unset.
    ///
    /// # Errors
    /// [`AmountError`].
    pub(crate) fn describe(&self) -> Result<Resources, AmountError> {
        Ok(Resources {
            memory_bytes: size::or_unset(self.memory.as_deref(), size::bytes)?,
            memory_swap_bytes: size::or_unset(
                self.memory_swap.as_deref(),
                size::bytes_or_unlimited,
            )?,
            cpu_shares: self.cpu_shares,
            cpu_quota_usec: self.cpu_quota,
            cpu_period_usec: self.cpu_period,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            ..Resources::default()
        })
    }
}
