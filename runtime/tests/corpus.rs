//! The corpus of the fuzz targets, whole, cut and with single bytes changed: what a fuzzer once found
//! stays found, and a new parser meets bad input in each test run.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a crate of its own for the fuzzer")]
mod targets;

/// Runs `target` on each file of its corpus and on some hundred variations of it.
fn survives(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files = 0;
    for entry in fs::read_dir(&corpus).expect("the corpus is there") {
        let seed = fs::read(entry.expect("an entry").path()).expect("a file");
        files += 1;
        target(&seed);
        let step = (seed.len() / 150).max(1);
        for at in (0..seed.len()).step_by(step) {
            target(&seed[..at]);
            for byte in [0, b'"', b'9', b'-', b'{', 0xff] {
                let mut changed = seed.clone();
                changed[at] = byte;
                target(&changed);
            }
        }
    }
    assert!(files > 0, "{corpus:?} is empty");
}

#[test]
fn config_survives_any_change() {
    survives("config", targets::config);
}

#[test]
fn process_survives_any_change() {
    survives("process", targets::process);
}

#[test]
fn state_survives_any_change() {
    survives("state", targets::state);
}

#[test]
fn passwd_survives_any_change() {
    survives("passwd", targets::passwd);
}
