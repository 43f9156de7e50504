//! The keys that leave a container and let it run: ctrl-p ctrl-q, unless others are chosen.

use std::str::FromStr;

/// A sequence of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    bytes: Vec<u8>,
}

/// Text that names no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{key:?} is no key: give one character, or ctrl- and a letter or one of @ [ \\ ] ^ _, separated by commas"
)]
pub(crate) struct DetachKeysError {
    key: String,
}

impl Default for DetachKeys {
    fn default() -> Self {
        Self { bytes: vec![0x10, 0x11] }
    }
}

/// Understands "ctrl-p,ctrl-q", "ctrl-@", "x,y". An empty text is no sequence: nothing detaches.
impl FromStr for DetachKeys {
    type Err = DetachKeysError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self { bytes: Vec::new() });
        }
        let keys = text
            .split(',')
            .map(|key| key_byte(key).ok_or_else(|| DetachKeysError { key: key.to_owned() }));
        Ok(Self { bytes: keys.collect::<Result<_, _>>()? })
    }
}

/// The byte that a key sends.
fn key_byte(key: &str) -> Option<u8> {
    let lower = key.to_ascii_lowercase();
    let held = lower.strip_prefix("ctrl-");
    match (key.as_bytes(), held.map(str::as_bytes)) {
        ([byte], _) if byte.is_ascii_graphic() => Some(*byte),
        (_, Some([byte @ b'a'..=b'z'])) => Some(byte - b'a' + 1),
        (_, Some([byte @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => Some(byte - b'@'),
        _ => None,
    }
}

/// Looks for the keys in what is typed, also where they come in several reads.
#[derive(Debug)]
pub(crate) struct Watch {
    keys: DetachKeys,
    matched: usize,
}

/// What was found in one read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// What goes to the container. Keys that may be the beginning of the sequence are kept back
    /// until it is clear that they are not.
    pub(crate) pass_on: Vec<u8>,
    /// Whether the sequence is complete; what came after it is dropped.
    pub(crate) detach: bool,
}

impl Watch {
    /// Starts to look.
    pub(crate) fn new(keys: DetachKeys) -> Self {
        Self { keys, matched: 0 }
    }

    /// Looks at what was typed.
    pub(crate) fn look(&mut self, typed: &[u8]) -> Watched {
        let mut pass_on = Vec::with_capacity(typed.len());
        for &byte in typed {
            while self.keys.bytes.get(self.matched) != Some(&byte) && self.matched > 0 {
                self.give_up_one(&mut pass_on);
            }
            if self.keys.bytes.get(self.matched) != Some(&byte) {
                pass_on.push(byte);
                continue;
            }
            self.matched += 1;
            if self.matched == self.keys.bytes.len() {
                self.matched = 0;
                return Watched { pass_on, detach: true };
            }
        }
        Watched { pass_on, detach: false }
    }

    /// Passes on the oldest keys kept back, up to where what remains may begin the sequence anew.
    fn give_up_one(&mut self, pass_on: &mut Vec<u8>) {
        let kept = &self.keys.bytes[..self.matched];
        let dropped = (1..=kept.len())
            .find(|&dropped| self.keys.bytes.starts_with(&kept[dropped..]))
            .unwrap_or(kept.len());
        pass_on.extend_from_slice(&kept[..dropped]);
        self.matched -= dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> DetachKeys {
        text.parse().expect(text)
    }

    #[test]
    fn keys_are_read_as_docker_reads_them() {
        assert_eq!(keys("ctrl-p,ctrl-q"), DetachKeys::default());
        assert_eq!(keys("ctrl-@,CTRL-[,a,ctrl-_").bytes, [0, 27, b'a', 31]);
        assert!(keys("").bytes.is_empty());
        for text in ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-ä", "ä"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_sequence_passes_unchanged() {
        // Each table row: keys, what is typed read by read, what must pass, whether it detaches.
        let table: [(&str, &[&str], &str, bool); 9] = [
            ("ctrl-p,ctrl-q", &["ab"], "ab", false),
            ("ctrl-p,ctrl-q", &["a\u{10}\u{11}b"], "a", true),
            ("ctrl-p,ctrl-q", &["a\u{10}", "\u{11}"], "a", true),
            ("ctrl-p,ctrl-q", &["\u{10}", "x"], "\u{10}x", false),
            ("ctrl-p,ctrl-q", &["\u{10}\u{10}\u{11}"], "\u{10}", true),
            ("a,a,b", &["aaab"], "a", true),
            ("a,b,a,c", &["ababac"], "ab", true),
            ("a,b,a,c", &["abab", "x"], "ababx", false),
            ("", &["\u{10}\u{11}"], "\u{10}\u{11}", false),
        ];
        for (sequence, reads, passes, detaches) in table {
            let mut watch = Watch::new(keys(sequence));
            let mut passed = Vec::new();
            let mut detached = false;
            for read in reads {
                let watched = watch.look(read.as_bytes());
                passed.extend(watched.pass_on);
                detached |= watched.detach;
            }
            assert_eq!(String::from_utf8_lossy(&passed), passes, "{sequence}: {reads:?}");
            assert_eq!(detached, detaches, "{sequence}: {reads:?}");
        }
    }
}
