//! Fuzzes [`keg_runtime_fuzz::state`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keg_runtime_fuzz::state(data));
