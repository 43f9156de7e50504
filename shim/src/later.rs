//! What nobody waits for: it is done when whoever asks next has had an answer.

use std::time::Duration;

/// By then a daemon that is about to start the container has asked for that.
const PAUSE: Duration = Duration::from_millis(2);

/// Does `work` in a moment; a shim that ends before leaves it undone.
pub(crate) fn later(work: impl FnOnce() + 'static) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(PAUSE).await;
        work();
    });
}
