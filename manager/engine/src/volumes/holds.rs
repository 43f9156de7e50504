//! Which running containers hold which volumes, so that what a volume stands for is mounted while
//! it is needed and no longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::ContainerId;

/// Holders by the volume's name.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    holders: Mutex<BTreeMap<String, BTreeSet<ContainerId>>>,
    /// Taken while a volume appears, is filled or vanishes. These are rare, and short but for the
    /// filling; who creates a container without volumes never waits here.
    changing: Mutex<()>,
}

impl Holds {
    /// Runs `mount` if the container is the first holder, and makes it one if that succeeds.
    pub(super) fn hold<E>(
        &self,
        volume: &str,
        container: &ContainerId,
        mount: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut holders = self.holders();
        if !holders.contains_key(volume) {
            mount()?;
        }
        holders.entry(volume.to_owned()).or_default().insert(container.clone());
        Ok(())
    }

    /// Ends a container's hold, and runs `unmount` if it was the last. Returns whether there was
    /// one.
    pub(super) fn release(
        &self,
        volume: &str,
        container: &ContainerId,
        unmount: impl FnOnce(),
    ) -> bool {
        let mut holders = self.holders();
        let Some(of_volume) = holders.get_mut(volume) else { return false };
        let held = of_volume.remove(container);
        if of_volume.is_empty() {
            holders.remove(volume);
            unmount();
        }
        held
    }

    /// Whether anybody holds a volume.
    pub(super) fn is_held(&self, volume: &str) -> bool {
        self.holders().contains_key(volume)
    }

    /// Keeps volumes from appearing and vanishing.
    pub(super) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holders(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<ContainerId>>> {
        // A panic while it is held leaves a holder too many or too few, and nothing half changed.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_first_holder_mounts_and_the_last_unmounts() {
        let holds = Holds::default();
        let [one, two] = [1, 2].map(|octet| ContainerId::from_random([octet; 32]));
        let (mounts, unmounts) = (Cell::new(0), Cell::new(0));
        let mount = || -> Result<(), ()> {
            mounts.set(mounts.get() + 1);
            Ok(())
        };
        let unmount = || unmounts.set(unmounts.get() + 1);

        holds.hold("v", &one, mount).unwrap();
        holds.hold("v", &two, mount).unwrap();
        assert!(holds.release("v", &one, unmount));
        assert_eq!((mounts.get(), unmounts.get()), (1, 0));
        assert!(holds.release("v", &two, unmount) && !holds.release("v", &two, unmount));
        assert_eq!((mounts.get(), unmounts.get()), (1, 1));
        assert!(!holds.is_held("v"));
        assert_eq!(holds.hold("v", &one, || Err("no")), Err("no"));
        assert!(!holds.is_held("v"));
    }
}
