//! Supervises one container: stdio, logs, exit status, exec, resize.
