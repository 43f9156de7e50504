//! Containers: record, OCI specification, lifecycle, logs, events, recovery.
