//! The tests that need a kernel: one binary, a module per area, a file per subject.
//!
//! | module | what it asks |
//! | --- | --- |
//! | `build` | images from Dockerfiles |
//! | `cli` | `keg` as people type it |
//! | `engine` | kegd: what survives its death, the walls of its containers |
//! | `image` | pulls from good and bad registries, hostile layers |
//! | `network` | networks of containers, on machines made of network namespaces |
//! | `runtime` | keg-runtime (or, by `KEG_TEST_RUNTIME`, a peer): what a container sees |
//! | `repo` | the rules of this repository: dependencies, licences, style |
//! | `seams` | our programs in the place of others: under dockerd, under containerd; runc under our shim |
//! | `shim` | containerd-shim-keg-v2 over ttrpc |
//! | `stories` | what people do with servers from Debian's packages, from the first command to the last |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod build;
mod cli;
mod engine;
mod image;
mod network;
mod repo;
mod runtime;
mod seams;
mod shim;
mod stories;
