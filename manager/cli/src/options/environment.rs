//! Environment variables and labels, from flags and files.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why a variable or a label cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    /// A variable without a name.
    #[error("{text:?} has no name before \"=\"")]
    NoName { text: String },
    /// A name with a space in it, in a file.
    #[error("{}:{line}: the name {name:?} has a space in it", file.display())]
    NameWithSpace { file: PathBuf, line: usize, name: String },
    /// A file that cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Collects variables: those of the files first, then those of the flags. `NAME` without `=` takes
/// its value from `host`, and is left out if it has none there.
///
/// # Errors
/// [`EnvironmentError`] for a variable without a name, and for a file that cannot be read.
pub(crate) fn variables(
    files: &[PathBuf],
    flags: &[String],
    host: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<String>, EnvironmentError> {
    let mut collected = Vec::new();
    for file in files {
        for entry in entries(file)? {
            collected.extend(complete(entry, &host)?);
        }
    }
    for flag in flags {
        collected.extend(complete(flag.clone(), &host)?);
    }
    Ok(collected)
}

/// Collects labels: those of the files first, then those of the flags. `NAME` alone has an empty
/// value.
///
/// # Errors
/// As [`variables`].
pub(crate) fn labels(
    files: &[PathBuf],
    flags: &[String],
) -> Result<HashMap<String, String>, EnvironmentError> {
    let mut collected = HashMap::new();
    let mut add = |entry: &str| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        if name.is_empty() {
            return Err(EnvironmentError::NoName { text: entry.to_owned() });
        }
        collected.insert(name.to_owned(), value.to_owned());
        Ok(())
    };
    for file in files {
        entries(file)?.iter().try_for_each(|entry| add(entry))?;
    }
    flags.iter().try_for_each(|flag| add(flag))?;
    Ok(collected)
}

/// Fills in a value from the host, if the entry has none.
fn complete(
    entry: String,
    host: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, EnvironmentError> {
    match entry.split_once('=') {
        Some(("", _)) => Err(EnvironmentError::NoName { text: entry }),
        Some(_) => Ok(Some(entry)),
        None if entry.is_empty() => Err(EnvironmentError::NoName { text: entry }),
        None => Ok(host(&entry).map(|value| format!("{entry}={}", value.to_string_lossy()))),
    }
}

/// Lines of a file that are neither empty nor comments.
fn entries(file: &Path) -> Result<Vec<String>, EnvironmentError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| EnvironmentError::Read { file: file.to_owned(), source })?;
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // Editors on other systems put a byte order mark at the start.
        let line = line.trim_start_matches('\u{feff}').trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.contains(char::is_whitespace) {
            return Err(EnvironmentError::NameWithSpace {
                file: file.to_owned(),
                line: index + 1,
                name: name.to_owned(),
            });
        }
        entries.push(line.to_owned());
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Option<OsString> {
        (name == "SET").then(|| OsString::from("from host"))
    }

    #[test]
    fn flags_follow_files_and_bare_names_are_taken_from_the_host() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("env");
        std::fs::write(&file, "\u{feff}# comment\n\nA=1\n  B=x y=z\r\nSET\nUNSET\n").expect("file");

        let flags = ["A=2".to_owned(), "E=".to_owned(), "SET".to_owned()];
        let collected = variables(&[file], &flags, host).expect("variables");

        assert_eq!(collected, ["A=1", "B=x y=z", "SET=from host", "A=2", "E=", "SET=from host"]);
    }

    #[test]
    fn a_name_with_a_space_is_refused_with_its_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("env");
        std::fs::write(&file, "A=1\nMY NAME=2\n").expect("file");

        let error = variables(&[file], &[], host).expect_err("a space");

        assert!(
            error.to_string().ends_with(":2: the name \"MY NAME\" has a space in it"),
            "{error}"
        );
    }

    #[test]
    fn names_are_needed() {
        assert!(variables(&[], &["=x".to_owned()], host).is_err());
        assert!(variables(&[], &[String::new()], host).is_err());
        assert!(labels(&[], &["=x".to_owned()]).is_err());
    }

    #[test]
    fn labels_may_lack_a_value_and_the_last_wins() {
        let flags = ["a=1".to_owned(), "b".to_owned(), "a=2=3".to_owned()];

        let labels = labels(&[], &flags).expect("labels");

        assert_eq!(labels.get("a").map(String::as_str), Some("2=3"));
        assert_eq!(labels.get("b").map(String::as_str), Some(""));
    }
}
