//! Fixtures, the probe, and the tests that need a kernel.
