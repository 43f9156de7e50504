//! `cargo fuzz run certificate`, in `manager/image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| keg_image::fuzzing::certificate(input));
