//! Fuzzes [`keg_runtime_fuzz::passwd`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keg_runtime_fuzz::passwd(data));
