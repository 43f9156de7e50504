//! A context: files on the client's side, looked at and fetched only as far as a build reads them.
//!
//! ```text
//! COPY src/ …  ─▶ list the directories below src that are not ignored, level by level
//!              ─▶ a file that looks as it did last time has the digest that it had
//!              ─▶ the others are sent, hashed, stored
//! ```
//!
//! The client is asked for paths and follows no link; links are followed here, in what it listed,
//! and never lead above the context's root.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use crate::content::{Content, FileWriter, Index, Known};
use crate::error::BuildError;
use crate::ignore::Ignore;
use crate::session::{Entry, Kind, Session};

/// Directories asked for at once.
const LIST_BATCH: usize = 256;
/// Files asked for at once.
const FETCH_BATCH: usize = 512;
/// Files and directories of one context.
const MAX_ENTRIES: usize = 4_000_000;

/// The files of one context, as far as they are known.
#[derive(Debug)]
pub(crate) struct ClientContext {
    /// Name by which the client knows it; empty for the main one.
    name: String,
    /// What tells it from contexts of other directories, for the index.
    identity: String,
    session: Arc<dyn Session>,
    content: Content,
    ignore: Ignore,
    known: Arc<Index>,
    state: AsyncMutex<State>,
    /// What this build found out, for the index.
    learned: Mutex<Index>,
}

#[derive(Debug, Default)]
struct State {
    /// Path of each directory that was listed → its names; `None`: no directory.
    listed: HashMap<String, Option<Arc<BTreeMap<String, Entry>>>>,
    entries: usize,
    now_nsec: i64,
    /// Path → digest of its bytes.
    digests: HashMap<String, String>,
    sent_bytes: u64,
}

impl ClientContext {
    pub(crate) fn new(
        name: &str,
        identity: &str,
        session: Arc<dyn Session>,
        content: Content,
        ignore: Ignore,
    ) -> Self {
        Self {
            name: name.to_owned(),
            identity: identity.to_owned(),
            session,
            known: content.index(identity),
            content,
            ignore,
            state: AsyncMutex::default(),
            learned: Mutex::default(),
        }
    }

    /// Returns the names in a directory, those that are ignored left out; `None` if it is none.
    pub(crate) async fn list(
        &self,
        directory: &str,
    ) -> Result<Option<Arc<BTreeMap<String, Entry>>>, BuildError> {
        let mut state = self.state.lock().await;
        self.list_all(&mut state, vec![directory.to_owned()]).await?;
        Ok(state.listed.get(directory).cloned().flatten())
    }

    /// Lists a directory and all below it.
    pub(crate) async fn list_below(&self, directory: &str) -> Result<(), BuildError> {
        let mut state = self.state.lock().await;
        let mut level = vec![directory.to_owned()];
        while !level.is_empty() {
            self.list_all(&mut state, level.clone()).await?;
            let mut next = Vec::new();
            for directory in &level {
                let Some(Some(names)) = state.listed.get(directory) else { continue };
                for entry in names.values().filter(|entry| entry.kind == Kind::Directory) {
                    next.push(join(directory, &entry.name));
                }
            }
            level = next;
        }
        Ok(())
    }

    async fn list_all(&self, state: &mut State, wanted: Vec<String>) -> Result<(), BuildError> {
        let missing: Vec<String> =
            wanted.into_iter().filter(|path| !state.listed.contains_key(path)).collect();
        for batch in missing.chunks(LIST_BATCH) {
            let listing = self
                .session
                .list(&self.name, batch.to_vec())
                .await
                .map_err(|source| BuildError::Session { source })?;
            state.now_nsec = listing.now_nsec;
            if listing.directories.len() != batch.len() {
                return Err(BuildError::ClientProtocol { what: "a listing has the wrong length" });
            }
            for (directory, entries) in batch.iter().zip(listing.directories) {
                let names = entries.map(|entries| Arc::new(self.kept(directory, entries)));
                state.entries += names.as_ref().map_or(0, |names| names.len());
                if state.entries > MAX_ENTRIES {
                    return Err(BuildError::ContextTooLarge { limit: MAX_ENTRIES });
                }
                state.listed.insert(directory.clone(), names);
            }
        }
        Ok(())
    }

    /// Leaves out what is ignored, and names that are none.
    fn kept(&self, directory: &str, entries: Vec<Entry>) -> BTreeMap<String, Entry> {
        entries
            .into_iter()
            .filter(|entry| {
                let name = entry.name.as_str();
                let valid =
                    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
                let path = join(directory, name);
                valid
                    && entry.kind != Kind::Other
                    && (self.ignore.is_empty()
                        || if entry.kind == Kind::Directory {
                            !self.ignore.ignores_all_below(&path)
                        } else {
                            !self.ignore.ignores(&path)
                        })
            })
            .map(|entry| (entry.name.clone(), entry))
            .collect()
    }

    /// Tells whether a path itself is left out; a directory may be and hold files that are not.
    pub(crate) fn ignores(&self, path: &str) -> bool {
        self.ignore.ignores(path)
    }

    /// Returns the digests of files, by their paths, and fetches what is not here. The files must
    /// have been listed.
    pub(crate) async fn digests(
        &self,
        files: &[(String, Entry)],
    ) -> Result<HashMap<String, String>, BuildError> {
        let mut state = self.state.lock().await;
        let mut wanted = Vec::new();
        for (path, entry) in files {
            if state.digests.contains_key(path) {
                continue;
            }
            match self.known.get(path) {
                Some(known) if known.is(entry) && self.content.path(&known.digest).exists() => {
                    let known = known.clone();
                    state.digests.insert(path.clone(), known.digest.clone());
                    self.learn(path, known);
                }
                _ => wanted.push((path.clone(), entry.clone())),
            }
        }
        for batch in wanted.chunks(FETCH_BATCH) {
            let fetched = self.fetch(batch).await?;
            for ((path, entry), (digest, size_bytes)) in batch.iter().zip(fetched) {
                state.sent_bytes += size_bytes;
                state.digests.insert(path.clone(), digest.clone());
                // What is being written to is not what was listed.
                if size_bytes == entry.size_bytes
                    && let Some(known) = Known::new(entry, digest, state.now_nsec)
                {
                    self.learn(path, known);
                }
            }
        }
        Ok(files
            .iter()
            .filter_map(|(path, _)| Some((path.clone(), state.digests.get(path)?.clone())))
            .collect())
    }

    async fn fetch(&self, batch: &[(String, Entry)]) -> Result<Vec<(String, u64)>, BuildError> {
        type Slots = Arc<Mutex<(Vec<Option<(String, u64)>>, HashMap<usize, FileWriter>)>>;
        let slots: Slots = Arc::new(Mutex::new((vec![None; batch.len()], HashMap::new())));
        let (filled, content) = (Arc::clone(&slots), self.content.clone());
        let sink = move |index: usize, bytes: bytes::Bytes, is_end: bool| {
            let mut slots = filled.lock().unwrap_or_else(PoisonError::into_inner);
            let mut writer = match slots.1.remove(&index) {
                Some(writer) => writer,
                None => content.writer()?,
            };
            writer.write_all(&bytes)?;
            if !is_end {
                slots.1.insert(index, writer);
                return Ok(());
            }
            let size_bytes = writer.size_bytes();
            let digest = writer.finish()?;
            if let Some(slot) = slots.0.get_mut(index) {
                *slot = Some((digest.hex().to_owned(), size_bytes));
            }
            Ok(())
        };
        let paths = batch.iter().map(|(path, _)| path.clone()).collect();
        self.session
            .fetch(&self.name, paths, Box::new(sink))
            .await
            .map_err(|source| BuildError::Session { source })?;
        let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut slots.0)
            .into_iter()
            .map(|slot| slot.ok_or(BuildError::ClientProtocol { what: "a file was not sent" }))
            .collect()
    }

    fn learn(&self, path: &str, known: Known) {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.insert(path.to_owned(), known);
    }

    /// Returns where the bytes with a digest are.
    pub(crate) fn stored(&self, digest: &str) -> std::path::PathBuf {
        self.content.path(digest)
    }

    /// Returns how many bytes were sent.
    pub(crate) async fn sent_bytes(&self) -> u64 {
        self.state.lock().await.sent_bytes
    }

    /// Keeps what was found out for the next build; `sync` brings the files to the disk before.
    pub(crate) fn keep(&self, sync: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        let learned =
            std::mem::take(&mut *self.learned.lock().unwrap_or_else(PoisonError::into_inner));
        let is_news = learned.iter().any(|(path, known)| self.known.get(path) != Some(known));
        if !is_news {
            return Ok(());
        }
        // What this build did not read may be what the next one reads.
        sync()?;
        let mut index = Index::clone(&self.known);
        index.extend(learned);
        self.content.keep_index(&self.identity, index)
    }
}

/// Joins paths; the root is the empty one, on either side.
pub(crate) fn join(directory: &str, name: &str) -> String {
    match (directory, name) {
        ("", name) => name.to_owned(),
        (directory, "") => directory.to_owned(),
        (directory, name) => format!("{directory}/{name}"),
    }
}
