//! Which pairs of categories are taken: each living container has one that no other has.
//!
//! Held in memory and counted, since containers that share namespaces share their label. It is filled
//! from the records when the daemon starts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::Pair;
use crate::create::random;
use crate::error::EngineError;

/// Categories that policies have.
const CATEGORIES: u16 = 1024;
/// Drawn pairs that may be taken before the first free one is looked for.
const DRAWS: u32 = 16;

/// The pairs that are taken, and how often.
#[derive(Debug, Default)]
pub(crate) struct Levels(Mutex<HashMap<Pair, usize>>);

/// A pair that stays taken while this lives.
#[derive(Debug)]
pub(crate) struct Hold {
    levels: Arc<Levels>,
    pair: Pair,
}

impl Levels {
    /// Takes a pair that nobody has.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if there is none; [`EngineError::File`] if the kernel has no
    /// random octets.
    pub(crate) fn draw(levels: &Arc<Self>) -> Result<(Pair, Hold), EngineError> {
        let mut taken = levels.taken();
        let mut free = None;
        for _ in 0..DRAWS {
            let [a, b, c, d] = random::<4>()?;
            let number = |low, high| u16::from_le_bytes([low, high]) % CATEGORIES;
            free = Pair::of(number(a, b), number(c, d)).filter(|pair| is_free(&taken, *pair));
            if free.is_some() {
                break;
            }
        }
        let all = || {
            (0..CATEGORIES).flat_map(|high| (0..high).filter_map(move |low| Pair::of(low, high)))
        };
        let pair = free.or_else(|| all().find(|pair| is_free(&taken, *pair))).ok_or_else(|| {
            EngineError::InvalidField {
                field: "security_opt",
                problem: "every pair of SELinux' categories is taken: remove containers, or give \
                          label=level:…"
                    .to_owned(),
            }
        })?;
        taken.insert(pair, 1);
        Ok((pair, Hold { levels: Arc::clone(levels), pair }))
    }

    /// Takes a pair that somebody may have already.
    pub(crate) fn hold(levels: &Arc<Self>, pair: Pair) -> Hold {
        levels.take(pair);
        Hold { levels: Arc::clone(levels), pair }
    }

    /// Takes a pair until [`Levels::give_back`].
    pub(crate) fn take(&self, pair: Pair) {
        *self.taken().entry(pair).or_default() += 1;
    }

    /// Gives a pair back, once for each time it was taken.
    pub(crate) fn give_back(&self, pair: Pair) {
        let mut taken = self.taken();
        if let Some(count) = taken.get_mut(&pair) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&pair);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Pair, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.levels.give_back(self.pair);
    }
}

/// The two highest categories are for files of containers without a label.
pub(super) fn of_nobody() -> Option<Pair> {
    Pair::of(CATEGORIES - 2, CATEGORIES - 1)
}

fn is_free(taken: &HashMap<Pair, usize>, pair: Pair) -> bool {
    !taken.contains_key(&pair) && Some(pair) != of_nobody()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_pair_is_drawn_twice_and_all_are_found() {
        let levels = Arc::new(Levels::default());
        let last = Pair::of(500, 1023).unwrap();
        let mut holds = Vec::new();
        for high in 0..CATEGORIES {
            let pairs = (0..high).filter_map(|low| Pair::of(low, high));
            holds
                .extend(pairs.filter(|pair| *pair != last).map(|pair| Levels::hold(&levels, pair)));
        }

        let (drawn, hold) = Levels::draw(&levels).unwrap();

        assert_eq!(drawn, last);
        assert!(Levels::draw(&levels).is_err());
        drop(hold);
        assert_eq!(Levels::draw(&levels).unwrap().0, last);
        drop(holds);
        assert!(levels.taken().is_empty());
    }

    #[test]
    fn a_shared_pair_is_free_when_the_last_who_has_it_is_gone() {
        let levels = Arc::new(Levels::default());
        let (pair, hold) = Levels::draw(&levels).unwrap();
        levels.take(pair);

        drop(hold);
        assert!(!is_free(&levels.taken(), pair));
        levels.give_back(pair);

        assert!(is_free(&levels.taken(), pair));
        let drawn: HashSet<Pair> = (0..1000)
            .map(|_| {
                let (pair, hold) = Levels::draw(&levels).unwrap();
                std::mem::forget(hold);
                pair
            })
            .collect();
        assert_eq!(drawn.len(), 1000);
    }
}
