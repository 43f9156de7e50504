//! The repository's own rules, checked.

mod dependencies;
mod licences;
mod style;
mod test_tree;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keg_fixtures::programs::source_tree;
use serde_json::Value;

/// Returns every file of our sources with this extension, below `directory` of the tree.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && !path.ends_with("target") && !hidden {
            found.extend(files(&path, extension));
        } else if path.extension() == Some(OsStr::new(extension)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns a path without the tree's.
fn shown(path: &Path) -> String {
    path.strip_prefix(source_tree()).unwrap_or(path).display().to_string()
}

/// Returns what `cargo metadata` says of the workspace and everything it depends on.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--offline", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(source_tree())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
