//! Names in an archive, cleaned before anything is done with them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

/// The kernel's limit for a path in one call (`PATH_MAX`); longer names could not be used anyway.
const MAX_BYTES: usize = 4096;

/// A path relative to the layer's root: components that are neither empty, `.` nor `..`, joined by
/// single slashes. Empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EntryPath(OsString);

impl EntryPath {
    /// Cleans a name of an archive, which may begin with `/` or `./`. `..` takes one component back.
    ///
    /// # Errors
    /// What is wrong with the name: it leads above the root, is too long, or holds a zero octet.
    pub(super) fn clean(name: &[u8]) -> Result<Self, &'static str> {
        if name.len() > MAX_BYTES {
            return Err("is longer than 4096 octets");
        }
        if name.contains(&0) {
            return Err("holds a zero octet");
        }
        let mut components: Vec<&[u8]> = Vec::new();
        for component in name.split(|octet| *octet == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop().ok_or("leads out of the layer")?;
                }
                name => components.push(name),
            }
        }
        Ok(Self(OsString::from_vec(components.join(&b'/'))))
    }

    /// Whether this is the layer's root.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds it; the root's is the root.
    pub(super) fn parent(&self) -> Self {
        let bytes = self.0.as_bytes();
        let end = bytes.iter().rposition(|octet| *octet == b'/').unwrap_or(0);
        Self(OsStr::from_bytes(&bytes[..end]).to_owned())
    }

    /// The last component; empty for the root.
    pub(super) fn name(&self) -> &OsStr {
        let bytes = self.0.as_bytes();
        let start = bytes.iter().rposition(|octet| *octet == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&bytes[start..])
    }

    /// The path of `name`, one component, in this directory.
    pub(super) fn join(&self, name: &OsStr) -> Self {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push("/");
        }
        path.push(name);
        Self(path)
    }

    /// Every directory on the way, from the outermost; ends with the path itself.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = Self> {
        let bytes = self.0.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, octet)| **octet == b'/').map(|(at, _)| at);
        let ends = ends.chain((!bytes.is_empty()).then_some(bytes.len()));
        ends.map(|end| Self(OsStr::from_bytes(&bytes[..end]).to_owned()))
    }

    /// Whether this is `ancestor` or below it.
    pub(super) fn is_within(&self, ancestor: &Self) -> bool {
        self.as_path().starts_with(ancestor.as_path())
    }

    pub(super) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_cleaned_by_text_alone() {
        let table: [(&str, Result<&str, &str>); 9] = [
            ("", Ok("")),
            ("./", Ok("")),
            ("/", Ok("")),
            ("a//b/./c/", Ok("a/b/c")),
            ("/etc/passwd", Ok("etc/passwd")),
            ("a/../b", Ok("b")),
            ("..", Err("leads out of the layer")),
            ("a/../../b", Err("leads out of the layer")),
            ("a\0b", Err("holds a zero octet")),
        ];

        for (name, expected) in table {
            let cleaned = EntryPath::clean(name.as_bytes());

            let text = cleaned.as_ref().map(|path| path.as_path().to_str().unwrap());
            assert_eq!(text, expected.as_ref().map(|text| *text), "{name:?}");
        }
    }

    #[test]
    fn a_path_is_its_parent_and_its_name() {
        let path = EntryPath::clean(b"a/b/c").unwrap();

        assert_eq!(path.parent().as_path(), Path::new("a/b"));
        assert_eq!(path.name(), "c");
        assert_eq!(path.parent().join(path.name()), path);
        let prefixes: Vec<_> = path.prefixes().collect();
        assert_eq!(prefixes.len(), 3);
        assert_eq!(prefixes[2], path);
    }

    proptest! {
        #[test]
        fn a_cleaned_path_stays_below_the_root(name in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = EntryPath::clean(&name) {
                for component in path.as_path().components() {
                    prop_assert!(matches!(component, std::path::Component::Normal(_)));
                }
            }
        }
    }
}
