//! Modes as chmod(1) takes them: `0755`, `u+x,go-w`, `a=rX`.

/// A mode, or changes to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// This one.
    Set(u32),
    /// Changes, one after the other.
    Clauses(Vec<Clause>),
}

/// One clause of a symbolic mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Bits of those that it is about: 4 the owner, 2 the group, 1 others.
    who: u32,
    operator: char,
    letters: String,
}

impl ModeChange {
    /// Reads a mode; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
            return u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).map(Self::Set);
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let start = part.find(['+', '-', '='])?;
            let mut who = 0;
            for letter in part[..start].chars() {
                who |= match letter {
                    'u' => 4,
                    'g' => 2,
                    'o' => 1,
                    'a' => 7,
                    _ => return None,
                };
            }
            let mut rest = &part[start..];
            while !rest.is_empty() {
                let operator = rest.chars().next()?;
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
                let letters = rest[1..end].to_owned();
                if !letters.chars().all(|letter| "rwxXstugo".contains(letter)) {
                    return None;
                }
                clauses.push(Clause { who: if who == 0 { 7 } else { who }, operator, letters });
                rest = &rest[end..];
            }
        }
        Some(Self::Clauses(clauses))
    }

    /// Returns the mode that a file gets which has `mode`.
    pub(crate) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Set(mode) => *mode,
            Self::Clauses(clauses) => {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_dir))
            }
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mut bits = 0;
        let mut special = 0;
        for letter in self.letters.chars() {
            bits |= match letter {
                'r' => 4,
                'w' => 2,
                'x' => 1,
                'X' => u32::from(is_dir || mode & 0o111 != 0),
                'u' => mode >> 6 & 7,
                'g' => mode >> 3 & 7,
                'o' => mode & 7,
                's' => {
                    special |= (self.who & 4) << 9 | (self.who & 2) << 9;
                    0
                }
                't' => {
                    special |= 0o1000;
                    0
                }
                _ => 0,
            };
        }
        let spread = |bits: u32| {
            (if self.who & 4 != 0 { bits << 6 } else { 0 })
                | (if self.who & 2 != 0 { bits << 3 } else { 0 })
                | (if self.who & 1 != 0 { bits } else { 0 })
        };
        let wanted = spread(bits) | special;
        match self.operator {
            '+' => mode | wanted,
            '-' => mode & !wanted,
            _ => (mode & !spread(7)) | wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_follow_chmod() {
        let table = [
            ("755", 0o600, false, 0o755),
            ("04755", 0o600, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("go-w,u=rwx", 0o666, false, 0o744),
            ("a=rX", 0o600, false, 0o444),
            ("a=rX", 0o700, true, 0o555),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, false, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("o=", 0o777, false, 0o770),
        ];
        for (text, before, is_dir, after) in table {
            let change = ModeChange::parse(text).unwrap();
            assert_eq!(change.apply(before, is_dir), after, "{text}");
        }
        for bad in ["", "9", "77777", "u*x", "z+x", "u+q", "rwx"] {
            assert_eq!(ModeChange::parse(bad), None, "{bad}");
        }
    }
}
