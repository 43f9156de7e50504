//! `cargo fuzz run short_name`, in `manager/image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| keg_image::fuzzing::short_name(input));
