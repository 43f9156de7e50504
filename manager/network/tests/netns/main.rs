//! The networks of an engine, in network namespaces of the tests' own: one plays the machine, one
//! another machine beside it, and some are containers. The machine's own network is never touched.
//!
//! Needs root, and the programs `ip` and `nft` to set the scene with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod isolation;
mod lab;
mod life;
mod names;
mod options;
mod ports;
