//! What an entry's headers say beyond the classic tar header: PAX records (POSIX.1-2001, pax).

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;

use tar::Entry;

use super::sparse::SparseMap;

/// Prefixes of extended attributes: GNU tar's and Go's, then libarchive's.
const ATTRIBUTE_PREFIXES: [&str; 2] = ["SCHILY.xattr.", "LIBARCHIVE.xattr."];

/// A moment: seconds since the epoch, and nanoseconds from 0 to 999,999,999 added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Moment {
    pub(super) secs: i64,
    pub(super) nanos: i64,
}

/// The PAX records of one entry that matter here; path, link, size and owner are the parser's.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) modified: Option<Moment>,
    pub(super) accessed: Option<Moment>,
    /// Name and value.
    pub(super) attributes: Vec<(OsString, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
}

/// How PAX tells a file with holes.
#[derive(Debug)]
pub(super) enum Sparse {
    /// Version 0.1: the map is in the header.
    Mapped { name: Option<Vec<u8>>, map: SparseMap },
    /// Version 1.0: the map precedes the data.
    Leading { name: Option<Vec<u8>>, real_bytes: u64 },
}

impl Sparse {
    /// The file's own name: that in the tar header is made up, for readers that know no holes.
    pub(super) fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Mapped { name, .. } | Self::Leading { name, .. } => name.as_deref(),
        }
    }
}

/// A record that cannot be used: its key, and why.
pub(super) type BadRecord = (String, &'static str);

impl Extended {
    /// Reads the records of `entry`.
    ///
    /// # Errors
    /// The first record that cannot be used.
    pub(super) fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Result<Self, BadRecord>> {
        let mut extended = Self::default();
        let mut sparse = SparseRecords::default();
        let Some(records) = entry.pax_extensions()? else { return Ok(Ok(extended)) };
        for record in records {
            let record = record?;
            let Ok(key) = record.key() else { continue };
            let value = record.value_bytes();
            let bad = |why| Ok(Err((key.to_owned(), why)));
            match key {
                "mtime" => match moment(value) {
                    Some(time) => extended.modified = Some(time),
                    None => return bad("is no time"),
                },
                "atime" => match moment(value) {
                    Some(time) => extended.accessed = Some(time),
                    None => return bad("is no time"),
                },
                _ if key.starts_with("GNU.sparse.") => {
                    if let Err(why) = sparse.take(key, value) {
                        return bad(why);
                    }
                }
                _ => {
                    let name =
                        ATTRIBUTE_PREFIXES.iter().find_map(|prefix| key.strip_prefix(prefix));
                    if let Some(name) = name {
                        let name = OsString::from_vec(name.as_bytes().to_vec());
                        extended.attributes.push((name, value.to_vec()));
                    }
                }
            }
        }
        Ok(sparse.finish().map(|sparse| Self { sparse, ..extended }))
    }
}

#[derive(Default)]
struct SparseRecords {
    major: Option<u64>,
    name: Option<Vec<u8>>,
    real_bytes: Option<u64>,
    map: Option<Vec<u64>>,
    repeated: bool,
}

impl SparseRecords {
    fn take(&mut self, key: &str, value: &[u8]) -> Result<(), &'static str> {
        match key {
            "GNU.sparse.major" => self.major = Some(number(value).ok_or("is no number")?),
            "GNU.sparse.name" => self.name = Some(value.to_vec()),
            "GNU.sparse.realsize" | "GNU.sparse.size" => {
                self.real_bytes = Some(number(value).ok_or("is no number")?);
            }
            "GNU.sparse.map" => {
                let numbers = value.split(|octet| *octet == b',').map(number);
                self.map = Some(numbers.collect::<Option<_>>().ok_or("is no list of numbers")?);
            }
            "GNU.sparse.offset" | "GNU.sparse.numbytes" => self.repeated = true,
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<Sparse>, BadRecord> {
        let name = self.name;
        match (self.major, self.real_bytes, self.map) {
            (Some(1), Some(real_bytes), None) => Ok(Some(Sparse::Leading { name, real_bytes })),
            (None | Some(0), Some(real_bytes), Some(numbers)) => {
                let map = SparseMap::new(&numbers, real_bytes)
                    .map_err(|why| ("GNU.sparse.map".to_owned(), why))?;
                Ok(Some(Sparse::Mapped { name, map }))
            }
            (None, None, None) if !self.repeated => Ok(None),
            _ => Err((
                "GNU.sparse".to_owned(),
                "is of version 0.0 or incomplete: make the archive with a newer GNU tar",
            )),
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses a PAX time: decimal seconds, perhaps negative, perhaps with a fraction.
fn moment(text: &[u8]) -> Option<Moment> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some(Moment { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Moment { secs, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_nanoseconds_before_and_after_the_epoch() {
        let table: [(&str, Option<(i64, i64)>); 7] = [
            ("1700000000", Some((1_700_000_000, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("1.x", None),
            ("", None),
        ];

        for (text, expected) in table {
            let parsed = moment(text.as_bytes()).map(|moment| (moment.secs, moment.nanos));

            assert_eq!(parsed, expected, "{text:?}");
        }
    }
}
