//! Locks by name: work on one thing is done once at a time, and different things do not wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Holds a name until it is dropped, wherever that is.
pub(crate) type NameGuard = OwnedMutexGuard<()>;

/// A lock for each name that anybody waits for.
#[derive(Debug, Default)]
pub(crate) struct NameLocks {
    locks: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl NameLocks {
    /// Waits until nobody else holds the name.
    pub(crate) async fn lock(&self, name: &str) -> NameGuard {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            match locks.get(name).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    locks.retain(|_, lock| lock.strong_count() > 0);
                    let lock = Arc::new(AsyncMutex::new(()));
                    locks.insert(name.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_name_is_held_once_and_others_do_not_wait() {
        let locks = NameLocks::default();
        let first = locks.lock("a").now_or_never().unwrap();

        let same = locks.lock("a").now_or_never();
        let other = locks.lock("b").now_or_never();
        drop(first);
        let again = locks.lock("a").now_or_never();

        assert!(same.is_none() && other.is_some() && again.is_some());
        assert!(locks.locks.lock().unwrap().len() <= 2);
    }
}
