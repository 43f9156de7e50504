//! The formats of the kernel's files of figures.

use super::super::dir::{Dir, parse_u64_or_max};
use super::super::error::CgroupError;
use super::{BlkioEntry, Pressure, PressureData};

/// `KEY VALUE` lines. Values that are no plain numbers are left out (`memory.stat` has none).
pub(super) fn flat_keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, parse_u64_or_max(value.trim())?))
    })
}

/// One value of a file with `KEY VALUE` lines; zero if the key is missing.
pub(super) fn flat_value(text: &str, key: &str) -> u64 {
    flat_keyed(text).find(|(name, _)| *name == key).map_or(0, |(_, value)| value)
}

/// Numbers apart by blanks.
pub(super) fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split_whitespace().map(|number| number.parse().ok()).collect()
}

/// A list of CPUs or memory nodes such as `0-2,7` (cpuset(7), “List format”).
pub(super) fn ranges(text: &str) -> Option<Vec<u16>> {
    let mut members = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        members.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    Some(members)
}

/// v1's figures of devices: `MAJOR:MINOR OPERATION VALUE` lines, and sums that we leave out.
pub(super) fn blkio(text: &str) -> Option<Vec<BlkioEntry>> {
    text.lines()
        .filter(|line| line.contains(':'))
        .map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let (op, value) = (fields.next()?, fields.next()?);
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: op.into(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

/// A line of v2's `io.stat`: a device and its `KEY=VALUE` fields.
pub(super) fn io_stat_line(line: &str) -> Option<DeviceFigures<'_>> {
    let mut fields = line.split_whitespace();
    let (major, minor) = fields.next()?.split_once(':')?;
    let figures = fields
        .filter_map(|field| {
            let (key, value) = field.split_once('=')?;
            Some((key, value.parse().ok()?))
        })
        .collect();
    Some(DeviceFigures { major: major.parse().ok()?, minor: minor.parse().ok()?, figures })
}

/// The figures of a device, each with its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DeviceFigures<'a> {
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) figures: Vec<(&'a str, u64)>,
}

/// A `*.pressure` file. `full` may be missing (for the CPU before Linux 5.13).
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let (kind, fields) = line.split_once(' ')?;
        let mut data = PressureData::default();
        for field in fields.split(' ') {
            let (key, value) = field.split_once('=')?;
            match key {
                "avg10" => data.avg10 = value.parse().ok()?,
                "avg60" => data.avg60 = value.parse().ok()?,
                "avg300" => data.avg300 = value.parse().ok()?,
                "total" => data.total = value.parse().ok()?,
                _ => {}
            }
        }
        match kind {
            "some" => pressure.some = data,
            "full" => pressure.full = data,
            _ => {}
        }
    }
    Some(pressure)
}

/// The names of huge page sizes as cgroups write them, from those in `/sys/kernel/mm/hugepages`.
pub(super) fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<_> =
        entries.filter_map(|entry| hugepage_size(entry.ok()?.file_name().to_str()?)).collect();
    sizes.sort();
    sizes
}

fn hugepage_size(name: &str) -> Option<String> {
    let mut size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let mut unit = "KB";
    for larger in ["MB", "GB"] {
        if size >= 1024 {
            size /= 1024;
            unit = larger;
        }
    }
    Some(format!("{size}{unit}"))
}

/// Reads and parses a file that may be missing.
pub(super) fn read<T>(
    dir: &Dir,
    file: &str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, CgroupError> {
    let Some(text) = dir.read_if_present(file)? else { return Ok(None) };
    match parse(&text) {
        Some(value) => Ok(Some(value)),
        None => Err(dir.parse_error(file, &text, expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_of_cpus_are_expanded() {
        for (text, members) in [
            ("", Some(vec![])),
            ("\n", Some(vec![])),
            ("0-2,7\n", Some(vec![0, 1, 2, 7])),
            ("3", Some(vec![3])),
            ("3-x", None),
            ("-", None),
        ] {
            assert_eq!(ranges(text), members, "{text:?}");
        }
    }

    #[test]
    fn sums_are_no_devices() {
        let entries = blkio("8:0 Read 10\n8:0 Write 0\nTotal 10\n").unwrap();

        let entry = |op: &str, value| BlkioEntry { major: 8, minor: 0, op: op.into(), value };
        assert_eq!(entries, [entry("Read", 10), entry("Write", 0)]);
        assert_eq!(blkio("8:0 Read x"), None);
    }

    #[test]
    fn pressure_is_read_with_and_without_full() {
        let line = "avg10=1.50 avg60=0.25 avg300=0.00 total=77";
        let data = PressureData { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 77 };

        let some = pressure(&format!("some {line}\n")).unwrap();
        let both = pressure(&format!("some {line}\nfull {line}\n")).unwrap();

        assert_eq!(some, Pressure { some: data, full: PressureData::default() });
        assert_eq!(both, Pressure { some: data, full: data });
        assert_eq!(pressure("some avg10=x\n"), None);
    }

    #[test]
    fn page_sizes_are_written_as_cgroups_do() {
        for (name, size) in [
            ("hugepages-64kB", Some("64KB")),
            ("hugepages-2048kB", Some("2MB")),
            ("hugepages-1048576kB", Some("1GB")),
            ("hugepages-2048", None),
            ("x", None),
        ] {
            assert_eq!(hugepage_size(name).as_deref(), size);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "[a-z0-9:=., \\n-]{0,100}") {
            let _ = (flat_keyed(&text).count(), numbers(&text), blkio(&text), pressure(&text));
            let _ = (io_stat_line(&text), hugepage_size(&text));
        }
    }
}
