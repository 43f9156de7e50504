//! Limits how much is logged per second.

use std::num::NonZeroU64;
use std::time::Instant;

/// A bucket that holds one second's worth of bytes and may be overdrawn by one block: so that a
/// block larger than the bucket passes too, and those after it wait the longer.
#[derive(Debug)]
pub(super) struct RateLimit {
    bytes_per_sec: u64,
    /// Nanobytes: a byte per second flows in as one per nanosecond. Negative: overdrawn.
    level: i128,
    last: Instant,
}

/// Nanobytes in a byte.
const SCALE: i128 = 1_000_000_000;

impl RateLimit {
    pub(super) fn new(bytes_per_sec: NonZeroU64, now: Instant) -> Self {
        let bytes_per_sec = bytes_per_sec.get();
        Self { bytes_per_sec, level: i128::from(bytes_per_sec) * SCALE, last: now }
    }

    /// Takes `bytes` out of the bucket, unless it is empty.
    pub(super) fn admits(&mut self, bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).as_nanos();
        let rate = i128::from(self.bytes_per_sec);
        let inflow = i128::try_from(passed).unwrap_or(i128::MAX).saturating_mul(rate);
        self.level = self.level.saturating_add(inflow).min(rate * SCALE);
        self.last = now;
        if self.level <= 0 {
            return false;
        }
        self.level -= i128::try_from(bytes).unwrap_or(i128::MAX).saturating_mul(SCALE);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_admits_a_seconds_worth_on_average() {
        let start = Instant::now();
        let mut limit = RateLimit::new(NonZeroU64::new(1000).unwrap(), start);
        let mut admitted = 0;

        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            admitted += usize::from(limit.admits(50, now)) * 50;
        }

        // Ten seconds' inflow, the full bucket at the start, one overdraft.
        assert!((10_900..=11_050).contains(&admitted), "{admitted}");
    }

    #[test]
    fn a_block_larger_than_the_bucket_passes_once_and_is_paid_for() {
        let start = Instant::now();
        let mut limit = RateLimit::new(NonZeroU64::new(100).unwrap(), start);

        assert!(limit.admits(1000, start));
        assert!(!limit.admits(1, start + Duration::from_millis(8900)));
        assert!(limit.admits(1, start + Duration::from_millis(9100)));
    }
}
