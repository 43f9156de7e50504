//! How our code reads, as far as a program can tell – CONTRIBUTING.md.

use std::fs;
use std::path::Path;

use keg_fixtures::programs::source_tree;

use super::{files, shown};

/// Drops comments, strings and characters, so that words are looked for in code only.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    for line in source.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let mut outside = true;
        let mut previous = ' ';
        for character in line.chars() {
            if character == '"' && previous != '\\' && previous != '\'' {
                outside = !outside;
            } else if outside {
                code.push(character);
            }
            previous = character;
        }
        code.push('\n');
    }
    code
}

/// Whether a file is, or is below, a module named `sys`.
fn is_sys(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "sys") || path.ends_with("sys.rs")
}

#[test]
fn every_module_says_what_it_is_for() {
    for path in files(source_tree(), "rs") {
        let source = fs::read_to_string(&path).unwrap();

        assert!(source.starts_with("//!"), "{} has no //! at its top", shown(&path));
    }
}

#[test]
fn unsafe_code_is_in_sys_modules_only() {
    for path in files(source_tree(), "rs").iter().filter(|path| !is_sys(path)) {
        let code = code_of(&fs::read_to_string(path).unwrap());
        let words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));

        let unsafe_words = words.filter(|word| *word == "unsafe").count();

        assert_eq!(unsafe_words, 0, "{} has unsafe code", shown(path));
    }
}

#[test]
fn the_manager_and_the_protocols_have_no_unsafe_code_at_all() {
    for directory in ["manager", "proto"] {
        for path in files(&source_tree().join(directory), "rs") {
            assert!(!is_sys(&path), "{} is a sys module", shown(&path));
        }
    }
}

#[test]
fn nothing_is_left_to_do_in_the_code() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    for extension in ["rs", "proto", "toml", "md"] {
        for path in files(source_tree(), extension) {
            let text = fs::read_to_string(&path).unwrap();

            for mark in marks {
                assert!(!text.contains(mark), "{} says {mark}", shown(&path));
            }
        }
    }
}

#[test]
fn no_test_sleeps() {
    let waits = source_tree().join("integration-tests/src");
    for path in files(source_tree(), "rs").iter().filter(|path| !path.starts_with(&waits)) {
        let source = fs::read_to_string(path).unwrap();
        let tests = match source.find("#[cfg(test)]") {
            Some(start) => &source[start..],
            None if path.components().any(|part| part.as_os_str() == "tests") => &source[..],
            None => continue,
        };

        assert!(!code_of(tests).contains("thread::sleep"), "{} sleeps in a test", shown(path));
    }
}

#[test]
fn every_message_and_field_of_our_interfaces_is_explained() {
    for path in files(&source_tree().join("proto/keg"), "proto") {
        let text = fs::read_to_string(&path).unwrap();
        let mut explained = false;
        for line in text.lines().map(str::trim) {
            let declares = line.starts_with("message ")
                || line.starts_with("enum ")
                || line.starts_with("service ")
                || line.starts_with("rpc ")
                || line.starts_with("oneof ")
                || line.contains(" = ") && line.ends_with(';') && !line.starts_with("syntax");
            assert!(explained || !declares, "{}: no comment on {line:?}", shown(&path));
            explained = line.starts_with("//");
        }
    }
}
