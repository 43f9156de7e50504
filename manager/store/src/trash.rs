//! Trash: what nothing names any more, on its way off the disk.
//!
//! ```text
//! blobs/…, snapshots/N, containers/ID ──rename──▶ trash/NUMBER ──remove──▶ (nothing)
//!        under the database's write lock,           a thread, one thing after the other;
//!        or by who owns the name                    Store::open begins with what a crash left
//! ```
//!
//! A rename costs the same whatever it moves, so that a removal is answered before its files are
//! removed. What cannot be moved (another file system is mounted there, or the disk is so full that a directory cannot
//! grow) is removed at once.
//!
//! # Invariants
//! What is in here has no name anywhere else and never gets one again. There is a limit to how much waits:
//! [`Trash::relieve`] makes those wait who throw away faster than the disk removes.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Things that may wait to be removed before those who throw away more have to wait too.
const MAX_WAITING: usize = 1024;

/// How long anybody waits for the trash. It goes on being emptied after that.
const PATIENCE: Duration = Duration::from_secs(120);

/// The trash of one root; clones share it.
#[derive(Debug, Clone)]
pub struct Trash {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
    /// Told when something has been removed.
    removed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number for the next thing.
    next: u64,
    /// What is to be removed; the first of them is just being.
    waiting: VecDeque<PathBuf>,
    /// Whether there is a thread that removes.
    is_being_emptied: bool,
}

impl Trash {
    /// Makes the directory, and begins to empty it.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut state = State::default();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            state.next = state.next.max(number.map_or(0, |number| number + 1));
            state.waiting.push_back(entry.path());
        }
        let shared =
            Shared { dir: dir.to_owned(), state: Mutex::new(state), removed: Condvar::new() };
        let trash = Self { shared: Arc::new(shared) };
        trash.empty(trash.shared.lock());
        Ok(trash)
    }

    /// Takes a file or a directory out of the way at once and off the disk soon. What does not exist is
    /// gone already.
    ///
    /// # Errors
    /// If it can neither be moved nor removed where it is.
    pub fn throw(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.lock();
        let place = self.shared.dir.join(state.next.to_string());
        match fs::rename(path, &place) {
            Ok(()) => {
                state.next += 1;
                state.waiting.push_back(place);
                self.empty(state);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => {
                drop(state);
                remove(path)
            }
        }
    }

    /// Waits until no more is in the trash than may be.
    pub fn relieve(&self) {
        self.wait_for(MAX_WAITING);
    }

    /// Waits until all that was thrown away is off the disk, for two minutes at most.
    pub fn wait_until_empty(&self) {
        self.wait_for(0);
    }

    /// Returns how much is still on the disk, in bytes.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn bytes(&self) -> io::Result<u64> {
        crate::measure(&self.shared.dir).map(|usage| usage.size_bytes)
    }

    /// Returns what is in the directory and could not be removed.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub(crate) fn leftovers(&self) -> io::Result<Vec<PathBuf>> {
        // Under the lock nothing comes, and what goes is known.
        let state = self.shared.lock();
        let known: BTreeSet<&PathBuf> = state.waiting.iter().collect();
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.shared.dir)? {
            let path = entry?.path();
            if !known.contains(&path) {
                left.push(path);
            }
        }
        left.sort();
        Ok(left)
    }

    fn wait_for(&self, count: usize) {
        let state = self.shared.lock();
        let waited = self.shared.removed.wait_timeout_while(state, PATIENCE, |state| {
            state.is_being_emptied && state.waiting.len() > count
        });
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Has a thread empty the trash, unless one does or there is nothing.
    fn empty(&self, mut state: MutexGuard<'_, State>) {
        if state.is_being_emptied || state.waiting.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("trash".to_owned());
        match thread.spawn(move || shared.remove_all()) {
            Ok(_) => state.is_being_emptied = true,
            Err(error) => tracing::warn!(%error, "cannot start a thread that empties the trash"),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_all(&self) {
        let mut state = self.lock();
        while let Some(path) = state.waiting.front().cloned() {
            drop(state);
            if let Err(error) = remove(&path) {
                tracing::warn!(?path, %error, "cannot remove what nothing needs");
            }
            state = self.lock();
            state.waiting.pop_front();
            self.removed.notify_all();
        }
        state.is_being_emptied = false;
        self.removed.notify_all();
    }
}

/// Removes whatever it is.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_thrown_away_is_gone_at_once_and_off_the_disk_soon() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::open(&root.path().join("trash")).unwrap();
        let (dir, file) = (root.path().join("dir"), root.path().join("file"));
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(&file, "x").unwrap();

        trash.throw(&dir).unwrap();
        trash.throw(&file).unwrap();
        trash.throw(&file).unwrap();

        assert!(!dir.exists() && !file.exists());
        trash.wait_until_empty();
        assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
        assert_eq!(trash.bytes().unwrap(), 0);
    }

    #[test]
    fn what_a_crash_left_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("trash");
        fs::create_dir_all(dir.join("7/fs")).unwrap();
        fs::write(dir.join("stray"), "x").unwrap();

        let trash = Trash::open(&dir).unwrap();
        trash.wait_until_empty();

        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        assert_eq!(trash.leftovers().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_cannot_be_moved_is_removed_where_it_is() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("trash");
        let trash = Trash::open(&dir).unwrap();
        fs::remove_dir(&dir).unwrap();
        fs::write(&dir, "a file, so that nothing can be moved into it").unwrap();
        let thing = root.path().join("thing");
        fs::create_dir_all(thing.join("below")).unwrap();

        trash.throw(&thing).unwrap();

        assert!(!thing.exists());
    }

    #[test]
    fn what_is_in_the_directory_and_waits_for_nothing_is_told() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::open(&root.path().join("trash")).unwrap();
        let stray = root.path().join("trash/stray");
        fs::write(&stray, "x").unwrap();

        assert_eq!(trash.leftovers().unwrap(), [stray]);
    }
}
