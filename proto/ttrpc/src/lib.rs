//! ttrpc: the framing, client and server that both ends of the shim's seam share.
//!
//! ```text
//!  Client ── Request frame, odd stream id ─────────▶ serve() ── Service::call
//!         ◀─ Response frame, same stream id ───────           (many at once per connection)
//! ```
//!
//! ttrpc is gRPC's call model on a local stream socket: a ten-byte header, then a protobuf message.
//! Only unary calls are served and made, as the Task and Events services have no others; a request
//! that opens a stream is answered with `Unimplemented`, frames of data are skipped.
//!
//! Invariants:
//! - A message of more than [`MAX_MESSAGE_BYTES`] is never read into memory, and never sent.
//! - What is queued for one connection is bounded: [`server::MAX_CALLS`] calls at once.
//! - A peer that goes away ends what it asked for: the server drops its handlers, the client fails
//!   its calls with [`CallError::Closed`].
//!
//! No task is spawned by the server: [`serve`] is one future, which is `Send` when the service's
//! futures are, so that it runs on a thread pool as well as on a single-threaded runtime.

pub mod client;
mod frame;
pub mod server;
mod status;

pub use client::{CallError, Client, ConnectError};
pub use frame::{FrameError, HEADER_BYTES, MAX_MESSAGE_BYTES};
pub use server::{Request, ServeError, Service, serve};
pub use status::{Code, Status};
