//! kegd: configuration, wiring, and one thin file per gRPC service.

fn main() {}
