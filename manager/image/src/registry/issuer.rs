//! Whose name a certificate is issued in: as much of X.509 as that takes.
//!
//! ```text
//! Certificate ::= SEQUENCE { TBSCertificate ::= SEQUENCE { [0] version, serial, algorithm, issuer, … }, … }
//! issuer      ::= SEQUENCE OF SET OF SEQUENCE { OBJECT IDENTIFIER, string }
//! ```

/// What an element is, in DER.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const VERSION: u8 = 0xa0;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const T61_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;

/// Object identifiers of the parts of a name: 2.5.4.3, 2.5.4.10, 2.5.4.11.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const UNIT: &[u8] = &[0x55, 0x04, 0x0b];

/// Longest name that is passed on, in characters.
const MAX_CHARS: usize = 100;

/// Returns the name of a certificate's issuer: its common name, else its organization.
pub(super) fn issuer_of(certificate: &[u8]) -> Option<String> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut fields, _) = element(certificate)? else { return None };
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    let after_serial = element(fields)?.2;
    let after_algorithm = element(after_serial)?.2;
    let (SEQUENCE, name, _) = element(after_algorithm)? else { return None };
    [COMMON_NAME, ORGANIZATION, UNIT].iter().find_map(|kind| part_of(name, kind))
}

/// Returns the first part of a kind that a name has.
fn part_of(mut name: &[u8], wanted: &[u8]) -> Option<String> {
    while !name.is_empty() {
        let (SET, mut parts, rest) = element(name)? else { return None };
        name = rest;
        while !parts.is_empty() {
            let (SEQUENCE, part, rest) = element(parts)? else { return None };
            parts = rest;
            let (OBJECT_IDENTIFIER, kind, value) = element(part)? else { return None };
            if kind == wanted {
                return text(value);
            }
        }
    }
    None
}

fn text(value: &[u8]) -> Option<String> {
    let (UTF8_STRING | PRINTABLE_STRING | T61_STRING | IA5_STRING, bytes, _) = element(value)?
    else {
        return None;
    };
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.chars().filter(|letter| !letter.is_control()).take(MAX_CHARS).collect();
    (!text.is_empty()).then_some(text)
}

/// Takes an element apart: its kind, what it holds, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // More than four octets of length are no certificate.
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length =
                octets.iter().fold(0_usize, |length, octet| length << 8 | usize::from(*octet));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((kind, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn der(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[kind, 0x82], length.as_slice(), content].concat()
    }

    fn name(parts: &[(&[u8], &str)]) -> Vec<u8> {
        let part = |(kind, value): &(&[u8], &str)| {
            let value = der(UTF8_STRING, value.as_bytes());
            der(SET, &der(SEQUENCE, &[der(OBJECT_IDENTIFIER, kind), value].concat()))
        };
        der(SEQUENCE, &parts.iter().flat_map(part).collect::<Vec<_>>())
    }

    fn certificate(issuer: &[u8], with_version: bool) -> Vec<u8> {
        let version = if with_version { der(VERSION, &[2, 1, 2]) } else { Vec::new() };
        let fields = [version, der(2, &[7]), der(SEQUENCE, &[]), issuer.to_vec()].concat();
        der(SEQUENCE, &der(SEQUENCE, &fields))
    }

    #[test]
    fn the_common_name_is_told_before_the_organization() {
        let both = name(&[(ORGANIZATION, "Example Ltd"), (COMMON_NAME, "Example CA")]);
        let one = name(&[(ORGANIZATION, "Example\u{1b}[31m Ltd")]);

        assert_eq!(issuer_of(&certificate(&both, true)).as_deref(), Some("Example CA"));
        assert_eq!(issuer_of(&certificate(&one, false)).as_deref(), Some("Example[31m Ltd"));
        assert_eq!(issuer_of(&certificate(&name(&[]), true)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = issuer_of(&bytes);
        }

        #[test]
        fn a_certificate_cut_anywhere_has_no_issuer_or_the_right_one(cut in 0_usize..80) {
            let whole = certificate(&name(&[(COMMON_NAME, "Example CA")]), true);

            let issuer = issuer_of(&whole[..cut.min(whole.len())]);

            prop_assert!(issuer.is_none() || issuer.as_deref() == Some("Example CA"));
        }
    }
}
