//! The client's side of a build: it answers the daemon's questions and shows what it tells.
//!
//! ```text
//! daemon ── list, fetch ──▶ files ── pieces ──▶ daemon      only what is asked for
//!        ── secret ───────▶ a file or a variable
//!        ── agent frames ─▶ SSH_AUTH_SOCK
//!        ── credentials ──▶ ~/.docker/config.json and its helpers
//!        ── shell ────────▶ our terminal
//!        ── steps, logs ──▶ display       output ──▶ a file, a directory
//! ```

pub(crate) mod agent;
pub(crate) mod call;
pub(crate) mod display;
pub(crate) mod files;
pub(crate) mod flags;
pub(crate) mod limits;
pub(crate) mod output;
pub(crate) mod session;
mod shell;
