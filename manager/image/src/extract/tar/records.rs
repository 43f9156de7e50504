//! PAX records: what extended headers say of the entry behind them (POSIX, pax, "pax Extended Header").

use rustix::fs::Timespec;

use super::malformed;
use crate::extract::ExtractError;

/// Prefix of PAX records that hold extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What extension headers say of the entry behind them.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timespec>,
    pub(super) comment: Option<Vec<u8>>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// GNU's three ways to tell a sparse file in PAX records.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) size: Option<u64>,
    pub(super) is_version_1: bool,
    /// Offsets and lengths in turn.
    pub(super) numbers: Vec<u64>,
}

/// Parses PAX records, each `LENGTH KEY=VALUE\n` (POSIX, pax, "pax Extended Header").
pub(super) fn parse_records(
    mut records: &[u8],
    extensions: &mut Extensions,
) -> Result<(), ExtractError> {
    let bad = || malformed("an extended header is not a list of records");
    while !records.is_empty() && records[0] != 0 {
        let space = records.iter().take(20).position(|&byte| byte == b' ').ok_or_else(bad)?;
        let length = decimal(&records[..space]).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|&length| length <= records.len()).ok_or_else(bad)?;
        let record = records.get(space + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
        apply_record(&record[..equals], &record[equals + 1..], extensions)?;
        records = &records[length..];
    }
    Ok(())
}

fn apply_record(key: &[u8], value: &[u8], extensions: &mut Extensions) -> Result<(), ExtractError> {
    let whole = || decimal(value).ok_or_else(|| malformed("an extended header has a bad number"));
    let sparse = &mut extensions.sparse;
    match key {
        b"path" | b"GNU.sparse.name" => extensions.path = Some(value.to_vec()),
        b"linkpath" => extensions.link = Some(value.to_vec()),
        b"size" => extensions.size = Some(whole()?),
        b"uid" => extensions.uid = Some(whole()?),
        b"gid" => extensions.gid = Some(whole()?),
        b"mtime" => extensions.mtime = timespec(value),
        b"comment" => extensions.comment = Some(value.to_vec()),
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.size = Some(whole()?),
        b"GNU.sparse.major" => sparse.is_version_1 = value == b"1",
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => sparse.numbers.push(whole()?),
        b"GNU.sparse.map" => {
            let bad = || malformed("a sparse file's map is not a list of numbers");
            for text in value.split(|&byte| byte == b',') {
                sparse.numbers.push(decimal(text).ok_or_else(bad)?);
            }
        }
        _ => {
            if let Some(name) = key.strip_prefix(XATTR) {
                extensions.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// Reads seconds since 1970 with a fraction, before or after.
fn timespec(value: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (secs, nanos): (i64, i64) = (whole.parse().ok()?, digits.parse().ok()?);
    if whole.starts_with('-') && nanos > 0 {
        return Some(Timespec { tv_sec: secs.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanos });
    }
    Some(Timespec { tv_sec: secs, tv_nsec: nanos })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
