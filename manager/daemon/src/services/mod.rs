//! One thin file per gRPC service: each handler parses, calls one function of the engine, converts.

mod builds;
mod containers;
mod events;
mod files;
mod images;
mod limits;
mod networks;
mod registries;
mod storage;
mod system;
mod volumes;

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::Status;

pub(crate) use builds::Builds;
pub(crate) use containers::Containers;
pub(crate) use events::Events;
pub(crate) use files::Files;
pub(crate) use images::Images;
pub(crate) use limits::Limits;
pub(crate) use networks::Networks;
pub(crate) use registries::Registries;
pub(crate) use storage::Storage;
pub(crate) use system::System;
pub(crate) use volumes::Volumes;

/// What a call that streams returns.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
