//! Ids: the maps of user namespaces, and what `/etc/passwd` says of a user.

use std::fmt::Write as _;

use oci_spec::runtime::LinuxIdMapping;

/// One line of a user namespace's `uid_map` or `gid_map` (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub container: u32,
    /// The id outside that it stands for.
    pub host: u32,
    /// How many ids follow one another.
    pub size: u32,
}

impl From<&LinuxIdMapping> for IdRange {
    fn from(mapping: &LinuxIdMapping) -> Self {
        Self { container: mapping.container_id(), host: mapping.host_id(), size: mapping.size() }
    }
}

/// All ranges of one kind of id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap(Vec<IdRange>);

impl IdMap {
    /// Makes a map of the specification's ranges.
    #[must_use]
    pub fn new(mappings: &[LinuxIdMapping]) -> Self {
        Self(mappings.iter().map(IdRange::from).collect())
    }

    /// Returns whether no id is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the ranges.
    #[must_use]
    pub fn ranges(&self) -> &[IdRange] {
        &self.0
    }

    /// Returns the id outside that `container` stands for.
    #[must_use]
    pub fn to_host(&self, container: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let offset = container.checked_sub(range.container)?;
            (offset < range.size).then(|| range.host.checked_add(offset)).flatten()
        })
    }

    /// Returns whether the id `host` outside has a name inside.
    #[must_use]
    pub fn reaches_host(&self, host: u32) -> bool {
        self.0
            .iter()
            .any(|range| host.checked_sub(range.host).is_some_and(|offset| offset < range.size))
    }

    /// Returns the map as the kernel reads it from `uid_map`.
    #[must_use]
    pub fn to_kernel(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, range| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {} {}", range.container, range.host, range.size);
            text
        })
    }
}

/// Returns the home directory that a passwd(5) file gives `uid`; of several, the first.
#[must_use]
pub fn home_of(passwd: &[u8], uid: u32) -> Option<&[u8]> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let id = fields.nth(2)?;
        let home = fields.nth(2)?;
        let id: u32 = std::str::from_utf8(id).ok()?.parse().ok()?;
        (id == uid && !home.is_empty()).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(u32, u32, u32)]) -> IdMap {
        IdMap(
            ranges
                .iter()
                .map(|&(container, host, size)| IdRange { container, host, size })
                .collect(),
        )
    }

    #[test]
    fn ids_translate_within_their_ranges_only() {
        let map = map(&[(0, 100_000, 10), (1000, 5, 1)]);

        let cases =
            [(0, Some(100_000)), (9, Some(100_009)), (10, None), (1000, Some(5)), (1001, None)];
        for (inside, outside) in cases {
            assert_eq!(map.to_host(inside), outside, "container id {inside}");
        }
        assert!(map.reaches_host(5) && !map.reaches_host(0) && !map.reaches_host(100_010));
    }

    #[test]
    fn a_range_that_wraps_reaches_nothing_beyond_the_last_id() {
        assert_eq!(map(&[(0, u32::MAX, 5)]).to_host(1), None);
    }

    #[test]
    fn the_kernel_gets_a_line_per_range() {
        assert_eq!(
            map(&[(0, 1000, 1), (1, 100_000, 65_535)]).to_kernel(),
            "0 1000 1\n1 100000 65535\n"
        );
    }

    #[test]
    fn home_is_found_by_number_and_broken_lines_are_passed_over() {
        let passwd = b"junk\nroot:x:0:0:root:/root:/bin/sh\nx:y:zz:0::/bad:/\nme:x:7:7::/home/me:/bin/sh\nno:x:8:8:::\n";

        assert_eq!(home_of(passwd, 0), Some(&b"/root"[..]));
        assert_eq!(home_of(passwd, 7), Some(&b"/home/me"[..]));
        assert_eq!(home_of(passwd, 8), None);
        assert_eq!(home_of(passwd, 9), None);
    }
}
