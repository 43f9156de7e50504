//! The arithmetic between what the runtime-spec says in v1's units and what v2 wants.

use super::error::CgroupError;

/// v1's range of `cpu.shares`.
pub(super) const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Converts CPU shares (2 to 262144, default 1024) to v2's weight (1 to 10000, default 100).
///
/// The curve is the one that runc and systemd agreed upon: quadratic in the logarithm, through
/// minimum, default and maximum of both ranges, so that a default container weighs the default.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    if shares <= *CPU_SHARES.start() {
        return 1;
    }
    if shares >= *CPU_SHARES.end() {
        return 10_000;
    }
    // Both ends are cut off above: the value fits an f64 exactly, and the result lies in 1..=10000.
    #[expect(clippy::cast_precision_loss, reason = "below 2^18")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the curve stays within 1..=10000"
    )]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight
}

/// Converts the weight of block I/O (10 to 1000) to v2's `io.weight` (1 to 10000), linearly.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

/// The limit of swap alone, which v2 wants, from the limit of memory and swap together.
///
/// `None` means that nothing is to be written; `-1` is no limit. Zero means unset, as in runc.
///
/// # Errors
/// [`CgroupError::Limit`] if the two contradict each other.
pub(super) fn swap_alone(
    memory_and_swap: Option<i64>,
    memory: Option<i64>,
) -> Result<Option<i64>, CgroupError> {
    let contradiction =
        |why: &str| Err(CgroupError::Limit { field: "memory.swap".into(), why: why.into() });
    match (memory_and_swap.unwrap_or(0), memory.unwrap_or(0)) {
        (0, -1) => Ok(Some(-1)),
        (0, _) => Ok(None),
        (-1, _) => Ok(Some(-1)),
        (total, _) if total < 0 => contradiction("must be -1 or positive"),
        (total, -1) => Ok(Some(total)),
        (_, 0) => contradiction("needs memory.limit beside it, of which it is the sum with swap"),
        (_, memory) if memory < 0 => contradiction("memory.limit must be -1 or positive"),
        (total, memory) if total < memory => {
            contradiction("is memory and swap together, so it must not be less than memory.limit")
        }
        (total, memory) => Ok(Some(total - memory)),
    }
}

/// Writes a limit in v2's words.
pub(super) fn or_max(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

/// The limit of processes as the kernel takes it; negative is none. Zero says nothing: that is how it
/// was until version 1.3 of the runtime-spec, and Docker 20.10 writes it where there is no limit. The
/// plan of a newer bundle has no zero, see `ContainerPlan`.
pub(super) fn pids(limit: i64) -> Option<String> {
    (limit != 0).then(|| or_max(limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_shares_meet_the_weights_at_minimum_default_and_maximum() {
        for (shares, weight) in
            [(0, 1), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn io_weights_span_the_new_range() {
        for (old, new) in [(0, 1), (10, 1), (500, 4950), (1000, 10_000)] {
            assert_eq!(io_weight(old), new, "{old}");
        }
    }

    #[test]
    fn swap_is_the_difference() {
        for (total, memory, swap) in [
            (None, None, None),
            (None, Some(100), None),
            (Some(0), Some(100), None),
            (None, Some(-1), Some(-1)),
            (Some(-1), Some(100), Some(-1)),
            (Some(-1), None, Some(-1)),
            (Some(300), Some(100), Some(200)),
            (Some(100), Some(100), Some(0)),
            (Some(300), Some(-1), Some(300)),
        ] {
            assert_eq!(swap_alone(total, memory).unwrap(), swap, "{total:?} {memory:?}");
        }
    }

    #[test]
    fn contradictory_swap_is_refused() {
        for (total, memory) in
            [(Some(300), None), (Some(50), Some(100)), (Some(-2), Some(1)), (Some(5), Some(-7))]
        {
            assert!(swap_alone(total, memory).is_err(), "{total:?} {memory:?}");
        }
    }

    #[test]
    fn a_negative_number_of_processes_is_no_limit_and_zero_says_nothing() {
        for (limit, text) in [(-1, Some("max")), (i64::MIN, Some("max")), (0, None), (7, Some("7"))]
        {
            assert_eq!(pids(limit).as_deref(), text);
        }
    }

    proptest! {
        #[test]
        fn weights_grow_with_shares(low in 2_u64..262_144, more in 0_u64..1000) {
            prop_assert!(cpu_weight(low) <= cpu_weight(low + more));
            prop_assert!((1..=10_000).contains(&cpu_weight(low)));
        }
    }
}
