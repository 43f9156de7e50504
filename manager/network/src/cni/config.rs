//! Network configurations, as administrators write them (CNI specification 1.1, section 1).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::CniError;

/// Endings of files that hold a configuration.
const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];
/// The newest version that we speak.
const NEWEST: &str = "1.1.0";
/// Version of a configuration that names none.
const OLDEST: &str = "0.3.0";

/// A network: plugins that are run one after another.
#[derive(Debug, Clone, PartialEq)]
pub struct CniNetwork {
    /// Its name.
    pub name: String,
    /// Version of the specification that its plugins are spoken to by.
    pub version: String,
    /// Not to be asked by CHECK.
    pub disable_check: bool,
    /// Not to be told by GC.
    pub disable_gc: bool,
    /// Configurations of its plugins, in order.
    pub plugins: Vec<Map<String, Value>>,
}

/// The form of a file; a single plugin has its fields at the top.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    name: String,
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    disable_check: bool,
    #[serde(default, rename = "disableGC")]
    disable_gc: bool,
    #[serde(default)]
    plugins: Option<Vec<Map<String, Value>>>,
}

impl CniNetwork {
    /// Parses a list of plugins, or the older form with one.
    pub(super) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let file: File = serde_json::from_slice(text)?;
        let plugins = match file.plugins {
            Some(plugins) => plugins,
            None => vec![serde_json::from_slice(text)?],
        };
        let named = file.cni_versions.into_iter().chain(file.cni_version);
        let version = named
            .filter(|version| parts(version) <= parts(NEWEST))
            .max_by_key(|version| parts(version));
        Ok(Self {
            name: file.name,
            version: version.unwrap_or_else(|| OLDEST.to_owned()),
            disable_check: file.disable_check,
            disable_gc: file.disable_gc,
            plugins,
        })
    }

    /// Whether its plugins know a version of the specification.
    pub(super) fn is_at_least(&self, version: &str) -> bool {
        parts(&self.version) >= parts(version)
    }
}

/// A version as numbers, for comparison.
fn parts(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Finds the network of that name: the first in the order of the files' names.
pub(super) fn find(directories: &[PathBuf], name: &str) -> Result<CniNetwork, CniError> {
    let mut known = Vec::new();
    for path in directories.iter().flat_map(|directory| files(directory)) {
        match load(&path) {
            Ok(network) if network.name == name => return Ok(network),
            Ok(network) => known.push(network.name),
            // Another network's file is none of this one's business, and said so.
            Err(error) => tracing::warn!(path = ?path, error = %error, "left out"),
        }
    }
    Err(CniError::NotFound { name: name.to_owned(), known: known.join(", ") })
}

/// Lists the networks that can be had.
pub(super) fn list(directories: &[PathBuf]) -> Vec<CniNetwork> {
    let paths = directories.iter().flat_map(|directory| files(directory));
    paths.filter_map(|path| load(&path).ok()).collect()
}

fn load(path: &Path) -> Result<CniNetwork, CniError> {
    let text = fs::read(path).map_err(|source| CniError::Read { path: path.to_owned(), source })?;
    CniNetwork::parse(&text).map_err(|source| CniError::Malformed { path: path.to_owned(), source })
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        })
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_plugins_are_understood() {
        let list = br#"{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0","2.0.0"],"name":"a",
            "disableCheck":true,"plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
        let single = br#"{"cniVersion":"0.4.0","name":"b","type":"macvlan","master":"eth0"}"#;

        let (list, single) = (CniNetwork::parse(list).unwrap(), CniNetwork::parse(single).unwrap());

        assert_eq!((list.plugins.len(), list.version.as_str()), (2, "1.1.0"));
        assert!(list.disable_check && list.is_at_least("1.1.0"));
        assert_eq!(single.plugins[0]["type"], "macvlan");
        assert!(!single.is_at_least("1.1.0") && single.is_at_least("0.4.0"));
    }

    #[test]
    fn what_is_no_configuration_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        put("10-bad.conflist", "{");
        put("20-a.conflist", r#"{"name":"a","plugins":[]}"#);
        put("30-a.conf", r#"{"name":"a","type":"loopback"}"#);
        put("README", "x");
        let directories = [directory.path().to_owned()];

        assert_eq!(find(&directories, "a").unwrap().plugins.len(), 0, "the first wins");
        let missing = find(&directories, "b").unwrap_err();
        assert!(missing.to_string().contains("there are: a, a"), "{missing}");
    }
}
