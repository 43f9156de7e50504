//! Low-level OCI runtime: bundle in, container out.
