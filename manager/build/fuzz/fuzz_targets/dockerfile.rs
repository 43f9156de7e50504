//! No Dockerfile, and no word in one, makes the parser panic.
#![no_main]

use keg_build::dockerfile::{Dockerfile, Words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Dockerfile::parse(text);
    let variables = |name: &str| (name.len() % 2 == 0).then(|| name.repeat(2));
    let _ = Words::new('\\').split(text, &variables);
    let _ = Words::new('`').one(text, &variables);
});
