//! Id ranges: which host ids stand for a container's, durably and never twice.

use rusqlite::params;

use super::database::column;
use super::{MetadataError, ReadTx, WriteTx};
use crate::Namespace;

/// Host ids `base … base + count - 1`, which a container sees as `0 … count - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// Host id of the container's id 0.
    pub base: u32,
    /// How many ids.
    pub count: u32,
}

/// Where ranges are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRangePool {
    /// First host id of the first range.
    pub start: u32,
    /// Ids in a range.
    pub count: u32,
    /// How many ranges.
    pub ranges: u32,
}

impl Default for IdRangePool {
    /// Returns ranges of 65,536 ids from 2^19, above what `useradd` gives out, up to 2^31, above
    /// which some programs take an id for negative.
    fn default() -> Self {
        Self { start: 1 << 19, count: 1 << 16, ranges: (1 << 15) - (1 << 3) }
    }
}

impl ReadTx<'_> {
    /// Returns a container's range, if it has one.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn id_range(
        &self,
        ns: &Namespace,
        container: &str,
    ) -> Result<Option<IdRange>, MetadataError> {
        self.row(
            "SELECT base, count FROM id_ranges WHERE namespace = ?1 AND container = ?2",
            [ns.as_str(), container],
            |row| Ok(IdRange { base: column(row, "base")?, count: column(row, "count")? }),
        )
    }
}

impl WriteTx<'_> {
    /// Gives a container the lowest free range of the pool; it goes back when the container's
    /// record is deleted. The record must exist when the transaction commits.
    ///
    /// # Errors
    /// [`MetadataError::NoIdRange`] if all are taken, [`MetadataError::Exists`] if the container
    /// has one.
    pub fn allocate_id_range(
        &self,
        ns: &Namespace,
        container: &str,
        pool: &IdRangePool,
    ) -> Result<IdRange, MetadataError> {
        let taken = self.rows("SELECT base, count FROM id_ranges ORDER BY base", [], |row| {
            let (base, count): (u64, u64) = (column(row, "base")?, column(row, "count")?);
            Ok((base, base + count))
        })?;
        let base =
            lowest_free(pool, &taken).ok_or(MetadataError::NoIdRange { ranges: pool.ranges })?;
        self.change(
            "INSERT INTO id_ranges (base, count, namespace, container) VALUES (?1, ?2, ?3, ?4)",
            params![base, pool.count, ns.as_str(), container],
        )
        .map_err(|source| MetadataError::insert("id range", ns, container, source))?;
        Ok(IdRange { base, count: pool.count })
    }
}

impl WriteTx<'_> {
    /// Makes a range another container's, which lives longer than the one that had it and uses it
    /// too. That there is none to pass on, or that the other has one of its own, is no error.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn pass_id_range(&self, ns: &Namespace, from: &str, to: &str) -> Result<(), MetadataError> {
        self.change(
            "UPDATE OR IGNORE id_ranges SET container = ?3 WHERE namespace = ?1 AND container = ?2",
            params![ns.as_str(), from, to],
        )
        .map_err(MetadataError::sql("pass an id range on"))?;
        Ok(())
    }
}

/// Returns the base of the first range that meets none of `taken` (ascending, ends excluded).
fn lowest_free(pool: &IdRangePool, taken: &[(u64, u64)]) -> Option<u32> {
    let mut taken = taken.iter().copied().peekable();
    for index in 0..pool.ranges {
        let base = u64::from(pool.start) + u64::from(index) * u64::from(pool.count);
        let end = base + u64::from(pool.count);
        while taken.next_if(|&(_, taken_end)| taken_end <= base).is_some() {}
        if taken.peek().is_none_or(|&(taken_base, _)| end <= taken_base) {
            return u32::try_from(base).ok().filter(|_| end <= u64::from(u32::MAX));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lowest_gap_is_taken_and_a_full_pool_is_told() {
        let pool = IdRangePool { start: 100, count: 10, ranges: 3 };

        assert_eq!(lowest_free(&pool, &[]), Some(100));
        assert_eq!(lowest_free(&pool, &[(100, 110), (120, 130)]), Some(110));
        assert_eq!(lowest_free(&pool, &[(100, 110), (110, 120), (120, 130)]), None);
        assert_eq!(lowest_free(&pool, &[(0, 105)]), Some(110));
    }

    #[test]
    fn the_default_pool_ends_below_two_to_the_thirty_first() {
        let pool = IdRangePool::default();

        assert_eq!(u64::from(pool.start) + u64::from(pool.count) * u64::from(pool.ranges), 1 << 31);
    }

    proptest! {
        #[test]
        fn ranges_never_overlap(
            pools in prop::collection::vec((0_u32..500, 1_u32..40, 1_u32..20), 1..40)
        ) {
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (start, count, ranges) in pools {
                let pool = IdRangePool { start, count, ranges };
                if let Some(base) = lowest_free(&pool, &taken) {
                    let (base, end) = (u64::from(base), u64::from(base) + u64::from(count));
                    prop_assert!(taken.iter().all(|&(b, e)| end <= b || e <= base));
                    taken.push((base, end));
                    taken.sort_unstable();
                }
            }
        }
    }
}
