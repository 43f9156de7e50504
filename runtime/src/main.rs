//! Low-level OCI runtime: bundle in, container out.

fn main() {}
