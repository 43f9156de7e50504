//! Where the programs are: ours beside the test binary, others on the path.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Returns the path of one of our programs.
///
/// `KEG_BIN_DIR` names their directory; without it, it is the build directory of the running test.
///
/// # Panics
/// If the program is not there, with what to do.
#[must_use]
pub fn ours(name: &str) -> PathBuf {
    let directory = directory();
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{name} is not in {directory:?}: build it first (`make build`), or set KEG_BIN_DIR"
    );
    path
}

/// Returns the directory of our programs.
#[must_use]
pub fn directory() -> PathBuf {
    if let Some(directory) = env::var_os("KEG_BIN_DIR") {
        return directory.into();
    }
    let test = env::current_exe().expect("path of the test binary");
    let parent = test.parent().expect("directory of the test binary");
    // Test binaries are in target/PROFILE/deps, programs in target/PROFILE.
    if parent.ends_with("deps") { parent.parent().unwrap_or(parent) } else { parent }.to_owned()
}

/// Returns the path of another program, or `None` if it is not installed.
///
/// `/usr/sbin` and `/sbin` are looked into even where the path lacks them.
#[must_use]
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Returns the directory of peers newer than Debian's, which `.ci/newer-peers` fills.
#[must_use]
pub fn newer_peers() -> PathBuf {
    if let Some(directory) = env::var_os("KEG_NEWER_PEERS") {
        return directory.into();
    }
    let ours = directory();
    ours.parent().unwrap_or(&ours).join("newer-peers")
}

/// Returns the directory of a containerd newer than that, if `KEG_NEWEST_CONTAINERD` names one.
#[must_use]
pub fn newest_containerd() -> Option<PathBuf> {
    env::var_os("KEG_NEWEST_CONTAINERD").map(PathBuf::from)
}

/// Returns a CRIU that works with this kernel: the newer one, else the one that is installed.
#[must_use]
pub fn criu() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let works = |program: &PathBuf| {
        let check = Command::new(program).arg("check").stdin(Stdio::null()).output();
        check.is_ok_and(|output| output.status.success())
    };
    let find = || {
        let newer = newer_peers().join("bin/criu");
        [Some(newer), installed("criu")]
            .into_iter()
            .flatten()
            .filter(|path| path.is_file())
            .find(works)
    };
    FOUND.get_or_init(find).clone()
}

/// Returns the root of the source tree.
///
/// # Panics
/// Never: the manifest of this crate has a parent.
#[must_use]
pub fn source_tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("parent of integration-tests")
}
