//! `cargo fuzz run challenge`, in `manager/image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| keg_image::fuzzing::challenge(input));
