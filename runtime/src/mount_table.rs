//! The kernel's list of mounts (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountLine {
    /// Its number.
    pub(crate) id: u32,
    /// What of its file system it shows.
    pub(crate) root: PathBuf,
    /// Where it is.
    pub(crate) point: PathBuf,
    /// Type of its file system.
    pub(crate) kind: String,
    /// Options of the file system.
    pub(crate) options: Vec<String>,
}

/// Reads the list; lines that make no sense are left out.
pub(crate) fn parse(text: &str) -> Vec<MountLine> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<MountLine> {
    let (mount, super_block) = line.split_once(" - ")?;
    let mut super_block = super_block.split(' ');
    let kind = super_block.next()?.to_owned();
    let options = super_block.nth(1)?.split(',').map(Into::into).collect();
    let mut mount = mount.split(' ');
    let id = mount.next()?.parse().ok()?;
    let root = unescape(mount.nth(2)?);
    let point = unescape(mount.next()?);
    Some(MountLine { id, root, point, kind, options })
}

/// Undoes the kernel's `\ooo` for blanks and backslashes in a path.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = bytes.get(at + 1..at + 4).filter(|_| byte == b'\\').and_then(parse_octal);
        match octal {
            Some(unescaped) => {
                out.push(unescaped);
                at += 4;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(out).into()
}

fn parse_octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(digit - b'0'),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_taken_apart_whatever_optional_fields_it_has() {
        let table = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                     nonsense\n\
                     37 36 0:5 / /dev rw - devtmpfs udev rw\n";

        let mounts = parse(table);

        let seen: Vec<_> =
            mounts.iter().map(|mount| (mount.id, mount.point.to_str(), &*mount.kind)).collect();
        assert_eq!(seen, [(36, Some("/mnt 2"), "ext3"), (37, Some("/dev"), "devtmpfs")]);
        assert_eq!(mounts[0].root, PathBuf::from("/mnt1"));
        assert_eq!(mounts[0].options, ["rw", "errors=continue"]);
    }

    #[test]
    fn escapes_are_undone_only_where_they_are_whole() {
        for (text, path) in [
            ("/a\\040b", "/a b"),
            ("/a\\134b", "/a\\b"),
            ("/a\\04", "/a\\04"),
            ("/a\\999", "/a\\999"),
            ("/a\\", "/a\\"),
        ] {
            assert_eq!(unescape(text), PathBuf::from(path), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
