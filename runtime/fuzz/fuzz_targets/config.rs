//! Fuzzes [`keg_runtime_fuzz::config`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keg_runtime_fuzz::config(data));
