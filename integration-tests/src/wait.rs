//! Waiting for a condition, with a deadline.
//!
//! The only place in the tests where time passes on purpose: the condition is asked again at a short
//! interval, and a wait that takes too long fails the test with what it was waiting for.

use std::time::{Duration, Instant};

/// How long a condition gets when the caller has no better idea.
///
/// Generous: two busy cores, or a virtual machine without hardware support, must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(5);

/// Asks `condition` until it returns a value.
///
/// # Panics
/// After `deadline`, naming `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    match poll(deadline, &mut condition) {
        Some(value) => value,
        None => panic!("waited {deadline:?} in vain: {what}"),
    }
}

/// Asks `condition` until it holds.
///
/// # Panics
/// After `deadline`, naming `what`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Asks `condition` until it returns a value or `deadline` has passed.
pub fn poll<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Returns `count` moments of a time that takes `whole`, the first at its very begin.
pub fn moments(count: u32, whole: Duration) -> impl Iterator<Item = Duration> {
    (0..count).map(move |number| whole * number / count)
}

/// Lets time pass: for tests whose matter is that something happens at no chosen moment. Whoever
/// waits for a condition takes [`wait_until`].
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}
