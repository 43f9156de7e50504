//! Opens the builder beside the engine, with host ids of its own.

use anyhow::Context as _;
use keg_build::{Builder, BuilderSettings};
use keg_engine::Engine;
use keg_engine::model::IdRange;
use keg_image::Images;
use keg_store::IdRangePool;

use crate::config::BuildConfig;

/// Most ranges that builds take off the pool: steps that can run at the same time.
const MAX_RANGES: u32 = 16;

/// Splits the pool: the highest ranges are for steps of builds, of which none is written down, since
/// none outlives the daemon's life for long; the others are for containers.
pub(crate) fn split_pool(pool: IdRangePool) -> (IdRangePool, Vec<IdRange>) {
    let taken = (pool.ranges / 4).min(MAX_RANGES).max(u32::from(pool.ranges > 1));
    let left = pool.ranges - taken;
    let ranges = (left..pool.ranges)
        .map(|index| IdRange { start: pool.start + index * pool.count, length: pool.count })
        .collect();
    (IdRangePool { ranges: left, ..pool }, ranges)
}

/// Opens the builder.
///
/// # Errors
/// If its directories cannot be made, or the store fails.
pub(crate) fn open(
    engine: &Engine,
    images: &Images,
    id_ranges: Vec<IdRange>,
    config: &BuildConfig,
) -> anyhow::Result<Builder> {
    let settings = engine.settings();
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let parallel = match config.parallel_steps {
        0 => processors.max(2),
        wanted => usize::try_from(wanted).unwrap_or(usize::MAX),
    };
    let builder = BuilderSettings {
        root: settings.root.join("build"),
        state: settings.state.join("build"),
        id_ranges,
        parallel_steps: parallel,
        cache_bytes: config.cache_max_bytes,
        cache_keep_secs: config.cache_keep_secs,
    };
    Builder::open(builder, engine.clone(), images.clone()).context("cannot open the builder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_containers_never_share_ids() {
        for count in [0, 1, 2, 3, 64, 1 << 15] {
            let pool = IdRangePool { start: 1000, count: 10, ranges: count };

            let (left, builds) = split_pool(pool);

            let end = left.start + left.ranges * left.count;
            assert!(builds.iter().all(|range| range.start >= end), "{count}");
            assert_eq!(left.ranges as usize + builds.len(), count as usize);
            assert_eq!(builds.is_empty(), count < 2, "{count}");
        }
    }
}
