//! The kernel's files of numbers.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Reads a file with one number. `max`, and numbers beyond 64 bits, are the largest number.
pub(super) fn number(path: &Path) -> Option<u64> {
    parse_number(fs::read_to_string(path).ok()?.trim())
}

pub(super) fn parse_number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        _ => text.parse::<u128>().ok().map(|number| u64::try_from(number).unwrap_or(u64::MAX)),
    }
}

/// Reads a file of lines `NAME NUMBER`.
pub(super) fn table(path: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), parse_number(value.trim())?))
    });
    pairs.collect()
}

/// Takes a number out of a table; what the kernel does not count is 0.
pub(super) fn get(table: &HashMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

/// Names the page sizes for which `dir` has a file `hugetlb.SIZE.SUFFIX`.
pub(super) fn huge_page_sizes(dir: &Path, suffix: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.strip_suffix('.')?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}

/// Splits `MAJOR:MINOR`.
pub(super) fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Splits `NAME=NUMBER` pairs.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.split_ascii_whitespace().filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name, parse_number(value)?))
    })
}

/// Returns a limit as the messages have it, where no limit is 0.
pub(super) fn limit(value: Option<u64>) -> u64 {
    value.filter(|value| *value != u64::MAX).unwrap_or(0)
}
