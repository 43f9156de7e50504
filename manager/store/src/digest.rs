//! Digests: the names of immutable bytes (OCI image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A hash function that content may be named by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// Returns the name, as in front of the colon of a digest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns how many hexadecimal digits a digest has.
    #[must_use]
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon.
    #[error("digest {0:?} is not of the form ALGORITHM:HEX")]
    Form(String),
    /// The algorithm is neither sha256 nor sha512.
    #[error(
        "digest {text:?}: algorithm {algorithm:?} is not supported, only sha256 and sha512 are"
    )]
    Algorithm {
        /// The whole text.
        text: String,
        /// What is in front of the colon.
        algorithm: String,
    },
    /// The rest is not lower-case hexadecimal of the right length.
    #[error("digest {text:?} does not have {wanted} lower-case hexadecimal digits")]
    Hex {
        /// The whole text.
        text: String,
        /// How many digits the algorithm has.
        wanted: usize,
    },
}

/// A digest that is well-formed: `sha256:…` or `sha512:…` in lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    text: String,
    algorithm: Algorithm,
}

impl Digest {
    /// Returns the SHA-256 digest of `bytes`.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the whole text, `ALGORITHM:HEX`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hexadecimal digits alone.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) =
            text.split_once(':').ok_or_else(|| DigestError::Form(text.to_owned()))?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => {
                return Err(DigestError::Algorithm {
                    text: text.to_owned(),
                    algorithm: algorithm.to_owned(),
                });
            }
        };
        let wanted = algorithm.hex_len();
        let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() != wanted || !is_hex {
            return Err(DigestError::Hex { text: text.to_owned(), wanted });
        }
        Ok(Self { text: text.to_owned(), algorithm })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Computes a digest piece by piece.
#[derive(Clone)]
pub struct Hasher {
    state: State,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// Starts a digest of nothing.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(sha2::Sha512::new())),
        };
        Self { state }
    }

    /// Appends `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of everything appended.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.state {
            State::Sha256(hasher) => assemble(Algorithm::Sha256, &hasher.finalize()),
            State::Sha512(hasher) => assemble(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self.state {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        };
        f.debug_struct("Hasher").field("algorithm", &algorithm).finish_non_exhaustive()
    }
}

fn assemble(algorithm: Algorithm, hash: &[u8]) -> Digest {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(algorithm.as_str().len() + 1 + 2 * hash.len());
    text.push_str(algorithm.as_str());
    text.push(':');
    for byte in hash {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    Digest { text, algorithm }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_empty_string_has_its_published_digest() {
        assert_eq!(Digest::sha256(b"").as_str(), EMPTY);
        assert!(Hasher::new(Algorithm::Sha512).finish().hex().starts_with("cf83e1357eefb8bd"));
    }

    #[test]
    fn malformed_digests_are_refused_each_for_its_reason() {
        let short = "sha256:abc".to_owned();
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");

        assert_eq!("".parse::<Digest>(), Err(DigestError::Form(String::new())));
        assert!(matches!("md5:abc".parse::<Digest>(), Err(DigestError::Algorithm { .. })));
        assert_eq!(short.parse::<Digest>(), Err(DigestError::Hex { text: short, wanted: 64 }));
        assert!(matches!(upper.parse::<Digest>(), Err(DigestError::Hex { .. })));
        assert!(matches!(format!("{EMPTY}/../x").parse::<Digest>(), Err(DigestError::Hex { .. })));
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_a_digest(bytes: Vec<u8>, cut: prop::sample::Index) {
            let cut = if bytes.is_empty() { 0 } else { cut.index(bytes.len()) };
            let mut hasher = Hasher::new(Algorithm::Sha256);

            hasher.update(&bytes[..cut]);
            hasher.update(&bytes[cut..]);

            prop_assert_eq!(hasher.finish(), Digest::sha256(&bytes));
        }

        #[test]
        fn what_is_printed_is_parsed_to_the_same(bytes: Vec<u8>) {
            let digest = Digest::sha256(&bytes);

            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = text.parse::<Digest>();
        }
    }
}
