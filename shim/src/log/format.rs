//! The formats of the log: one entry per line or part of a line.
//!
//! ```text
//! json-file  {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.006Z"}     Docker's
//! cri        2026-01-02T03:04:05.006000000Z stdout F hello                             Kubernetes'
//! raw        hello                                                                     as written
//! ```
//!
//! In json-file a part of a line lacks the `\n`; in cri its tag is `P`.

use super::lines::Stream;

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

    /// Appends an entry to `out`.
    pub(crate) fn encode(
        self,
        out: &mut Vec<u8>,
        stream: Stream,
        time: &Times,
        piece: &[u8],
        complete: bool,
    ) {
        match self {
            Self::JsonFile => {
                out.extend_from_slice(b"{\"log\":\"");
                escape(out, piece);
                if complete {
                    out.extend_from_slice(b"\\n");
                }
                out.extend_from_slice(b"\",\"stream\":\"");
                out.extend_from_slice(stream.name().as_bytes());
                out.extend_from_slice(b"\",\"time\":\"");
                out.extend_from_slice(time.trimmed.as_bytes());
                out.extend_from_slice(b"\"}\n");
            }
            Self::Cri => {
                out.extend_from_slice(time.full.as_bytes());
                out.push(b' ');
                out.extend_from_slice(stream.name().as_bytes());
                out.extend_from_slice(if complete { b" F " } else { b" P " });
                out.extend_from_slice(piece);
                out.push(b'\n');
            }
            Self::Raw => {
                out.extend_from_slice(piece);
                out.extend(complete.then_some(b'\n'));
            }
        }
    }
}

/// The time of entries, in the forms that the formats want.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    pub(crate) full: String,
    pub(crate) trimmed: String,
}

/// Which octets stand for themselves within a JSON string, as Docker writes it: it also escapes
/// what is special in HTML.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut octet = 0x20_u8;
    while octet < 0x80 {
        plain[octet as usize] = !matches!(octet, b'"' | b'\\' | b'<' | b'>' | b'&');
        octet += 1;
    }
    plain
};

/// Appends `bytes` as the inside of a JSON string. What is not UTF-8 becomes U+FFFD.
fn escape(out: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let plain = bytes.iter().position(|octet| !PLAIN[usize::from(*octet)]);
        let plain = plain.unwrap_or(bytes.len());
        out.extend_from_slice(&bytes[..plain]);
        bytes = &bytes[plain..];
        let Some(&octet) = bytes.first() else { return };
        if octet < 0x80 {
            escape_ascii(out, octet);
            bytes = &bytes[1..];
        } else {
            bytes = escape_unicode(out, bytes);
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
    use proptest::prelude::*;

    use super::*;

    fn times() -> Times {
        Times {
            full: "2026-01-02T03:04:05.120000000Z".into(),
            trimmed: "2026-01-02T03:04:05.12Z".into(),
        }
    }

    fn entry(format: Format, piece: &[u8], complete: bool) -> String {
        let mut out = Vec::new();
        format.encode(&mut out, Stream::Stdout, &times(), piece, complete);
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
