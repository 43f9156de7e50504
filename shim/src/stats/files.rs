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

/// What one device for remote direct memory access has of each resource.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rdma {
    pub(super) device: String,
    pub(super) hca_handles: u32,
    pub(super) hca_objects: u32,
}

/// Reads `rdma.current` or `rdma.max`, whose lines both versions of cgroups write alike:
/// `DEVICE hca_handle=… hca_object=…`.
pub(super) fn rdma(path: &Path) -> Vec<Rdma> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let values: HashMap<&str, u64> = pairs(rest).collect();
        let of =
            |name| values.get(name).map_or(0, |value| u32::try_from(*value).unwrap_or(u32::MAX));
        Some(Rdma {
            device: device.to_owned(),
            hca_handles: of("hca_handle"),
            hca_objects: of("hca_object"),
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Returns a limit as the messages have it, where no limit is 0.
pub(super) fn limit(value: Option<u64>) -> u64 {
    value.filter(|value| *value != u64::MAX).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rdma_limits_without_bound_are_the_largest_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rdma.max");
        fs::write(&path, "mlx4_0 hca_handle=2 hca_object=max\nno-line-of-a-device\n").unwrap();

        let entries = rdma(&path);

        let device = "mlx4_0".to_owned();
        assert_eq!(entries, [Rdma { device, hca_handles: 2, hca_objects: u32::MAX }]);
    }
}
