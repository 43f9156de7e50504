//! The container's log: what its streams wrote, in a format that people's tools read, in files
//! that are bounded.
//!
//! ```text
//! bytes ─▶ lines (split at \n, long ones cut) ─▶ format ─▶ rate limit ─▶ file ─▶ rotation ─▶ compression
//! ```
//!
//! Invariants:
//! - An entry is never torn by a rotation, nor left half-written when the disk is full.
//! - No file exceeds `max_size_bytes`, unless a single entry does.
//! - A line that is not finished is held back (up to [`MAX_LINE_BYTES`]) until it is, or until its
//!   stream ends; the raw format holds nothing back.

mod compress;
mod format;
mod lines;
mod rate;
mod writer;

use std::cell::RefCell;
use std::rc::Rc;

pub(crate) use format::Format;
pub(crate) use lines::Stream;
pub(crate) use writer::{LogError, LogSettings, LogWriter, Outcome, WhenFull};

/// Longest piece of a line in one entry: Docker's and Kubernetes' limit.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Compresses what `log` rotated, if it is to, in a task of its own that makes way for all others.
pub(crate) fn compress_in_background(log: &Rc<RefCell<LogWriter>>) {
    if !log.borrow_mut().begin_compression() {
        return;
    }
    let log = Rc::downgrade(log);
    tokio::task::spawn_local(async move {
        while log.upgrade().is_some_and(|log| log.borrow_mut().compress_some()) {
            tokio::task::yield_now().await;
        }
    });
}
