//! No patterns make the matcher panic, and a directory of which nothing is kept keeps nothing.
#![no_main]

use keg_build::Ignore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (patterns, path) = input;
    if patterns.len() > 4096 || path.len() > 256 {
        return;
    }
    if let Ok(ignore) = Ignore::parse(patterns)
        && ignore.ignores_all_below(path)
    {
        assert!(ignore.ignores(path));
    }
});
