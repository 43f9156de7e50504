//! The streams that the container got from outside: pipes, files, devices of the host.
//!
//! They are known by names that both CRIU and a later restore understand: `pipe:[INODE]` for a pipe,
//! `file[MOUNT:INODE]` (hexadecimal) for a file that is on none of the container's mounts. The names
//! lie in `descriptors.json` beside the images, one for each of the three standard streams, as runc
//! has it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Pid;

use super::CriuError;

const FILE: &str = "descriptors.json";

/// Names the standard streams of a process. One that is closed has an empty name.
pub(crate) fn of_process(pid: Pid) -> [String; 3] {
    std::array::from_fn(|fd| name(pid, fd).unwrap_or_default())
}

fn name(pid: Pid, fd: usize) -> Option<String> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let target = std::fs::read_link(&path).ok()?.to_string_lossy().into_owned();
    if !target.starts_with('/') || target.starts_with("/dev/pts/") {
        return Some(target);
    }
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    let mount = mount_id(&info)?;
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    if super::external::has_mount(&mounts, mount) {
        return Some(target);
    }
    let inode = std::fs::metadata(&path).ok()?.ino();
    Some(format!("file[{mount:x}:{inode:x}]"))
}

fn mount_id(fdinfo: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Returns the names among `streams` that CRIU must be told are not the container's own.
pub(crate) fn foreign_files(streams: &[String]) -> impl Iterator<Item = &String> {
    streams.iter().filter(|name| name.starts_with("file["))
}

/// Writes the names beside the images.
pub(crate) fn save(images: &Path, streams: &[String; 3]) -> Result<(), CriuError> {
    let path = images.join(FILE);
    let text = serde_json::to_vec(streams).unwrap_or_default();
    std::fs::write(&path, text).map_err(|source| CriuError::Io { action: "write", path, source })
}

/// Reads the names, and returns those that the caller's streams replace, each with its descriptor.
pub(crate) fn load(images: &Path) -> Result<Vec<(String, i32)>, CriuError> {
    let path = images.join(FILE);
    let text = crate::state_store::read_bounded(&path).map_err(|source| CriuError::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let names: Vec<String> =
        serde_json::from_slice(&text).map_err(|source| CriuError::Descriptors { path, source })?;
    Ok(replaced(names))
}

/// A stream that is there twice (`2>&1`) is replaced once.
fn replaced(names: Vec<String>) -> Vec<(String, i32)> {
    let mut replaced: Vec<(String, i32)> = Vec::new();
    for (name, fd) in names.into_iter().zip(0..) {
        let foreign = name.starts_with("pipe:") || name.starts_with("file[");
        if foreign && !replaced.iter().any(|(known, _)| *known == name) {
            replaced.push((name, fd));
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_foreign_streams_are_replaced_and_each_once() {
        let names = ["/dev/null", "pipe:[7]", "pipe:[7]", "file[1a:2b]"].map(str::to_owned);

        let replaced = replaced(names.to_vec());

        assert_eq!(replaced, [("pipe:[7]".to_owned(), 1), ("file[1a:2b]".to_owned(), 3)]);
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["file[1:2]".to_owned(), "pipe:[3]".to_owned(), String::new()];

        save(dir.path(), &names).unwrap();

        let expected = [("file[1:2]".to_owned(), 0), ("pipe:[3]".to_owned(), 1)];
        assert_eq!(load(dir.path()).unwrap(), expected);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(load(dir.path()), Err(CriuError::Descriptors { .. })));
    }

    #[test]
    fn an_own_pipe_is_named_as_the_kernel_names_it() {
        let id = mount_id("pos:\t0\nflags:\t02\nmnt_id:\t29\nino:\t7\n");

        assert_eq!(id, Some(29));
        assert_eq!(of_process(Pid::this()).len(), 3);
    }
}
