//! The formats of the log: one entry per line or part of a line.
//!
//! ```text
//! json-file  {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.006Z"}     Docker's
//! cri        2026-01-02T03:04:05.006000000Z stdout F hello                             Kubernetes'
//! raw        hello                                                                     as written
//! ```
//!
//! In json-file a part of a line lacks the `\n`; in cri its tag is `P`.

use std::time::SystemTime;

use super::lines::Stream;
use crate::clock::{Fraction, rfc3339};

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    JsonFile,
    Cri,
    Raw,
}

impl Format {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "json-file" => Some(Self::JsonFile),
            "cri" => Some(Self::Cri),
            "raw" => Some(Self::Raw),
            _ => None,
        }
    }
}

/// What stands around the pieces of one block, which share a stream and a time: made once, so that
/// an entry costs little more than its copy.
#[derive(Debug)]
pub(crate) struct Frame {
    format: Format,
    whole: Affixes,
    part: Affixes,
}

#[derive(Debug)]
struct Affixes {
    before: String,
    after: String,
}

impl Frame {
    pub(crate) fn new(format: Format, stream: Stream, time: SystemTime) -> Self {
        let name = stream.name();
        let affixes = |before: &str, after: &str| Affixes {
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let (whole, part) = match format {
            Format::JsonFile => {
                let time = rfc3339(time, Fraction::Trimmed);
                let after = format!("\",\"stream\":\"{name}\",\"time\":\"{time}\"}}\n");
                let before = "{\"log\":\"";
                (affixes(before, &format!("\\n{after}")), affixes(before, &after))
            }
            Format::Cri => {
                let time = rfc3339(time, Fraction::Nanoseconds);
                let tagged = |tag| affixes(&format!("{time} {name} {tag} "), "\n");
                (tagged("F"), tagged("P"))
            }
            Format::Raw => (affixes("", "\n"), affixes("", "")),
        };
        Self { format, whole, part }
    }

    /// Appends an entry to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, piece: &[u8], complete: bool) {
        let Affixes { before, after } = if complete { &self.whole } else { &self.part };
        out.reserve(before.len() + piece.len() + after.len());
        out.extend_from_slice(before.as_bytes());
        match self.format {
            Format::JsonFile => escape(out, piece),
            Format::Cri | Format::Raw => out.extend_from_slice(piece),
        }
        out.extend_from_slice(after.as_bytes());
    }
}

/// Octets that are looked at together: what a vector register of every x86-64 holds.
const LANES: usize = 16;

/// Whether an octet does not stand for itself within a JSON string, as Docker writes it: it also
/// escapes what is special in HTML. Without branches, so that many octets are asked at once.
const fn is_special(octet: u8) -> bool {
    (octet < 0x20)
        | (octet >= 0x80)
        | (octet == b'"')
        | (octet == b'\\')
        | (octet == b'<')
        | (octet == b'>')
        | (octet == b'&')
}

/// Returns how many octets at the start of `bytes` stand for themselves.
fn plain_prefix(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<LANES>();
    let is_plain = |block: &&[u8; LANES]| {
        block.iter().fold(0, |found, octet| found | u8::from(is_special(*octet))) == 0
    };
    let plain = blocks.iter().take_while(is_plain).count() * LANES;
    let rest = &bytes[plain..];
    plain + rest.iter().position(|octet| is_special(*octet)).unwrap_or(rest.len())
}

/// Appends `bytes` as the inside of a JSON string. What is not UTF-8 becomes U+FFFD.
fn escape(out: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let (plain, rest) = bytes.split_at(plain_prefix(bytes));
        out.extend_from_slice(plain);
        let Some(&octet) = rest.first() else { return };
        if octet < 0x80 {
            escape_ascii(out, octet);
            bytes = &rest[1..];
        } else {
            bytes = escape_unicode(out, rest);
        }
    }
}

fn escape_ascii(out: &mut Vec<u8>, octet: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match octet {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', octet]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(octet >> 4)]);
            out.push(HEX[usize::from(octet & 15)]);
        }
    }
}

/// Appends the run of characters beyond ASCII at the start of `bytes`, and returns what is behind.
fn escape_unicode<'a>(out: &mut Vec<u8>, bytes: &'a [u8]) -> &'a [u8] {
    let run = bytes.iter().position(u8::is_ascii).unwrap_or(bytes.len());
    let (run, rest) = bytes.split_at(run);
    for chunk in run.utf8_chunks() {
        let mut plain = chunk.valid();
        // These two end a line in JavaScript.
        while let Some(at) = plain.find(['\u{2028}', '\u{2029}']) {
            out.extend_from_slice(&plain.as_bytes()[..at]);
            let paragraph = plain[at..].starts_with('\u{2029}');
            out.extend_from_slice(if paragraph { b"\\u2029" } else { b"\\u2028" });
            plain = &plain[at + '\u{2028}'.len_utf8()..];
        }
        out.extend_from_slice(plain.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn entry(format: Format, piece: &[u8], complete: bool) -> String {
        let mut out = Vec::new();
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_767_323_045, 120_000_000);
        Frame::new(format, Stream::Stdout, time).encode(&mut out, piece, complete);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_file_is_dockers_octet_for_octet() {
        for (piece, complete, text) in [
            (&b"hello"[..], true, r"hello\n"),
            (b"part", false, "part"),
            (b"a\"b\\c<d>&\t\x1b[0m\r", true, r#"a\"b\\c\u003cd\u003e\u0026\u0009\u001b[0m\r\n"#),
            ("é😀\u{2028}".as_bytes(), true, r"é😀\u2028\n"),
            (b"\xff\xfe ok \xc3", false, r"\ufffd\ufffd ok \ufffd"),
        ] {
            let expected = format!(
                "{{\"log\":\"{text}\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.12Z\"}}\n"
            );
            assert_eq!(entry(Format::JsonFile, piece, complete), expected);
        }
    }

    #[test]
    fn cri_marks_parts_and_raw_adds_nothing() {
        let stamp = "2026-01-02T03:04:05.120000000Z stdout";
        assert_eq!(entry(Format::Cri, b"hello", true), format!("{stamp} F hello\n"));
        assert_eq!(entry(Format::Cri, b"hel", false), format!("{stamp} P hel\n"));
        assert_eq!(entry(Format::Raw, b"hello", true), "hello\n");
        assert_eq!(entry(Format::Raw, b"hel", false), "hel");
    }

    #[test]
    fn a_special_octet_is_found_wherever_it_stands() {
        for octet in [b'"', b'\\', b'<', b'>', b'&', 0, 0x1f, 0x80, 0xff] {
            for at in 0..3 * LANES {
                let mut bytes = [b'x'; 3 * LANES];
                bytes[at] = octet;

                assert_eq!(plain_prefix(&bytes), at, "{octet:#x}");
            }
        }
        assert_eq!(plain_prefix(&[0x7f; LANES + 1]), LANES + 1);
    }

    proptest! {
        #[test]
        fn any_text_survives_json(text in "\\PC*|[\\x00-\\x7f]*") {
            let json = entry(Format::JsonFile, text.as_bytes(), false);

            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();

            prop_assert_eq!(parsed["log"].as_str(), Some(text.as_str()));
            prop_assert_eq!(json.matches('\n').count(), 1);
        }

        #[test]
        fn any_octets_become_valid_json(octets in prop::collection::vec(any::<u8>(), 0..100)) {
            let json = entry(Format::JsonFile, &octets, true);

            prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        }
    }
}
