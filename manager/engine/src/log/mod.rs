//! Reads a container's log.
//!
//! The shim writes, the engine reads, and nothing is agreed between them but the files:
//!
//! ```text
//! log.json      the newest; grows at its end
//! log.json.1    renamed away when log.json was full
//! log.json.2    older still; the oldest are deleted
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`choice`] | whether there is a log, and how much of it is kept |
//! | [`entry`] | one line of a file |
//! | [`reader`] | the files in order, from a place in the past, following what comes |
//!
//! Invariants: a line that is not finished is not told before it is; one that is damaged (a machine
//! that lost power while it was written) is passed over, and what follows it is not.

pub mod choice;
pub mod entry;
pub mod reader;

pub use choice::{LogChoice, LogLimits};
pub use entry::{LogEntry, LogStream};
pub use reader::{LogError, LogQuery, LogReader};
