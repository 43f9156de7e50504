//! The engine's side of the seam to shims: one shim per container, spoken to over ttrpc.
//!
//! ```text
//!   engine                                   containerd-shim-keg-v2
//!     │── exec SHIM start, in the bundle ───────▶│ forks its server, prints the address, exits
//!     │── Task.Create, Start, Wait, … ──────────▶│ BUNDLE/address
//!     │── AttachHello, bytes ───────────────────▶│ BUNDLE/address + ".io"
//!     │◀─ Events.Forward ────────────────────────│ to events.sock
//!     │── exec SHIM delete ─────────────────────▶  when the server is gone
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`launch`] | runs a shim's `start` and `delete` |
//! | [`task`] | the Task API |
//! | [`io`] | the socket that carries standard streams |
//! | [`events`] | the server that shims publish to |
//! | [`foreign`] | what is added where a shim is another's |
//! | [`exit_record`] | how a container ended, told by a file when no shim is left to ask |

pub mod events;
pub mod exit_record;
pub mod foreign;
pub mod io;
pub mod launch;
pub mod task;

pub use foreign::Foreign;
pub use launch::{Bundle, LaunchError, ShimProgram};
pub use task::{TaskClient, TaskError};
