//! Flags for limits that a container is made with and that can be changed later.

use clap::Args;
use keg_proto::keg::v1::Resources;

use super::size::{self, AmountError};

// The flags of `run`, `create` and `update`. No doc comment: see `commands`.
#[derive(Debug, Default, Args)]
#[command(next_display_order = None)]
pub(crate) struct ResourceFlags {
    /// Weight of its share of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", default_value_t = 0, hide_default_value = true)]
    blkio_weight: u32,
    /// Microseconds of the period that --cpu-quota is for (default: 100000)
    #[arg(long, value_name = "USEC", default_value_t = 0, hide_default_value = true)]
    cpu_period: u64,
    /// Microseconds of processor time per period
    #[arg(
        long,
        value_name = "USEC",
        default_value_t = 0,
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    cpu_quota: i64,
    /// Microseconds of the period of realtime scheduling
    #[arg(long, value_name = "USEC", default_value_t = 0, hide_default_value = true)]
    cpu_rt_period: u64,
    /// Microseconds of realtime scheduling per period
    #[arg(long, value_name = "USEC", default_value_t = 0, hide_default_value = true)]
    cpu_rt_runtime: i64,
    /// Weight of its share of processor time, 2 to 262144
    #[arg(
        short = 'c',
        long,
        value_name = "WEIGHT",
        default_value_t = 0,
        hide_default_value = true
    )]
    cpu_shares: u64,
    /// Processors' worth of time it may use, as in 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Processors it may run on, as in 0-3,6
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// Memory nodes it may use, as in 0-1
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    cpuset_mems: String,
    /// Memory limit, as in 512m
    #[arg(short = 'm', long, value_name = "BYTES")]
    memory: Option<String>,
    /// Soft limit of memory, as in 512m
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Most processes and threads; -1 for unlimited
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pids_limit: i64,
}

impl ResourceFlags {
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
            memory_reservation_bytes: size::or_unset(
                self.memory_reservation.as_deref(),
                size::bytes,
            )?,
            nano_cpus: size::or_unset(self.cpus.as_deref(), size::nano_cpus)?,
            cpu_shares: self.cpu_shares,
            cpu_quota_usec: self.cpu_quota,
            cpu_period_usec: self.cpu_period,
            cpu_rt_runtime_usec: self.cpu_rt_runtime,
            cpu_rt_period_usec: self.cpu_rt_period,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids_limit: self.pids_limit,
            blkio_weight: self.blkio_weight,
            ..Resources::default()
        })
    }
}
