//! Collection: what nothing needs goes; what anything needs stays.
//!
//! ```text
//! roots                                   edges
//! images ──────────▶ target blob          blob ──gc.ref.content──▶ blob
//! containers ──────▶ snapshot             blob ──gc.ref.snapshot─▶ snapshot
//! build results ───▶ snapshot, blob
//! leases ──────────▶ blob, snapshot,      snapshot ──parent──▶ snapshot
//!                    ingest               snapshot ──gc.ref…──▶ blob, snapshot
//! label gc.root ───▶ blob, snapshot
//! ```
//!
//! Mark and sweep of the rows is one transaction, so it sees one state, and readers go on. The files
//! follow in small steps, each of which checks under the write lock that no row has come back. A crash
//! between the two leaves files without rows, which the next collection removes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use crate::metadata::{BlobInfo, SnapshotRow};
use crate::{
    ContentError, ErrorClass, Explain, Labels, MetadataError, Namespace, ReadTx, Reason, Resource,
    SnapshotError, Snapshotter, Store, WriteTx, labels,
};

/// How long bytes of a broken transfer are kept for it to resume.
const INGEST_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Files of blobs.
    pub blobs: u64,
    /// Bytes of those files.
    pub blob_bytes: u64,
    /// Snapshots, and directories of earlier crashes.
    pub snapshots: u64,
    /// Bytes of committed snapshots.
    pub snapshot_bytes: u64,
    /// Transfers that broke off long ago.
    pub ingests: u64,
}

/// Why a collection ended early. What it removed until then was not needed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The rows could not be marked or swept.
    #[error("collect: the store's database failed")]
    Metadata {
        /// How.
        #[from]
        source: MetadataError,
    },
    /// Blobs could not be removed.
    #[error("collect blobs")]
    Content {
        /// Why.
        #[from]
        source: ContentError,
    },
    /// Snapshots could not be removed.
    #[error("collect snapshots")]
    Snapshot {
        /// Why.
        #[from]
        source: SnapshotError,
    },
}

impl CollectError {
    fn cause(&self) -> &dyn Explain {
        match self {
            Self::Metadata { source } => source,
            Self::Content { source } => source,
            Self::Snapshot { source } => source,
        }
    }
}

impl Explain for CollectError {
    fn reason(&self) -> Reason {
        self.cause().reason()
    }

    fn class(&self) -> ErrorClass {
        self.cause().class()
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        self.cause().remedy()
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        self.cause().operands()
    }
}

/// Removes everything that no image, container or lease needs. Runs beside everything else.
///
/// # Errors
/// [`CollectError`]; nothing that is needed is ever removed, and another collection goes on.
pub fn collect(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
) -> Result<Collected, CollectError> {
    let mut collected = store.transaction(sweep_rows)?;
    (collected.blob_bytes, collected.blobs) = store.content().sweep_blobs()?;
    for snapshotter in snapshotters {
        collected.snapshots += snapshotter.cleanup()?;
    }
    collected.ingests = sweep_ingests(store)?;
    Ok(collected)
}

/// An object that can be needed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Node {
    Blob { namespace: String, digest: String },
    Snapshot { namespace: String, snapshotter: String, key: String },
}

/// What images, containers and leases need, directly or not.
pub(crate) struct Needed(HashSet<Node>);

impl Needed {
    /// Tells whether a blob of a namespace is needed.
    pub(crate) fn has_blob(&self, namespace: &str, blob: &BlobInfo) -> bool {
        self.0.contains(&blob_node(namespace, blob.digest.as_str()))
    }

    /// Tells whether a snapshot is needed.
    pub(crate) fn has_snapshot(&self, row: &SnapshotRow) -> bool {
        self.0.contains(&snapshot_node(row))
    }
}

/// Finds out what is needed of these blobs and snapshots.
///
/// # Errors
/// Only if the database fails.
pub(crate) fn needed(
    tx: &ReadTx<'_>,
    blobs: &[(String, BlobInfo)],
    snapshots: &[SnapshotRow],
) -> Result<Needed, MetadataError> {
    Ok(Needed(mark(roots(tx, blobs, snapshots)?, &edges(blobs, snapshots))))
}

fn sweep_rows(tx: &WriteTx<'_>) -> Result<Collected, MetadataError> {
    tx.delete_ended_leases()?;
    let (blobs, snapshots) = (tx.all_blobs()?, tx.all_snapshots()?);
    let needed = needed(tx, &blobs, &snapshots)?;
    for (namespace, blob) in &blobs {
        if !needed.has_blob(namespace, blob)
            && let Ok(ns) = namespace.parse::<Namespace>()
        {
            tx.delete_blob(&ns, &blob.digest)?;
        }
    }
    let mut collected = Collected::default();
    // Children have higher numbers than parents, except where a snapshot was put on top of one
    // later: deleting by number needs no order once the keys refer to nothing that stays.
    let mut doomed: Vec<&SnapshotRow> =
        snapshots.iter().filter(|row| !needed.has_snapshot(row)).collect();
    children_first(&mut doomed);
    for row in doomed {
        tx.delete_snapshot_number(row.number)?;
        collected.snapshot_bytes += row.info.usage.map_or(0, |usage| usage.size_bytes);
    }
    Ok(collected)
}

/// Orders snapshots so that each comes before the one below it.
fn children_first(rows: &mut [&SnapshotRow]) {
    let parents: HashMap<Node, Option<Node>> =
        rows.iter().map(|row| (snapshot_node(row), parent_node(row))).collect();
    let depth = |row: &&SnapshotRow| {
        let mut depth = 0_usize;
        let mut above = parent_node(row);
        while let Some(node) = above {
            depth += 1;
            above = parents.get(&node).cloned().flatten();
        }
        std::cmp::Reverse(depth)
    };
    rows.sort_by_cached_key(depth);
}

fn roots(
    tx: &ReadTx<'_>,
    blobs: &[(String, BlobInfo)],
    snapshots: &[SnapshotRow],
) -> Result<Vec<Node>, MetadataError> {
    let mut roots = Vec::new();
    for (namespace, digest) in tx.image_targets()? {
        roots.push(Node::Blob { namespace, digest });
    }
    for (namespace, snapshotter, key) in tx.container_snapshots()? {
        roots.push(Node::Snapshot { namespace, snapshotter, key });
    }
    for (namespace, snapshotter, key) in tx.build_snapshots()? {
        roots.push(Node::Snapshot { namespace, snapshotter, key });
    }
    for (namespace, digest) in tx.build_blobs()? {
        roots.push(Node::Blob { namespace, digest });
    }
    for (namespace, resource) in tx.leased_resources(jiff::Timestamp::now())? {
        match resource {
            Resource::Blob(digest) => roots.push(blob_node(&namespace, digest.as_str())),
            Resource::Snapshot { snapshotter, key } => {
                roots.push(Node::Snapshot { namespace, snapshotter, key });
            }
            Resource::Ingest(_) => {}
        }
    }
    let is_root = |labels: &Labels| labels.contains_key(labels::GC_ROOT);
    for (namespace, blob) in blobs.iter().filter(|(_, blob)| is_root(&blob.labels)) {
        roots.push(blob_node(namespace, blob.digest.as_str()));
    }
    roots.extend(snapshots.iter().filter(|row| is_root(&row.info.labels)).map(snapshot_node));
    Ok(roots)
}

fn edges(blobs: &[(String, BlobInfo)], snapshots: &[SnapshotRow]) -> HashMap<Node, Vec<Node>> {
    let mut edges = HashMap::new();
    for (namespace, blob) in blobs {
        let from = blob_node(namespace, blob.digest.as_str());
        edges.insert(from, references(namespace, &blob.labels));
    }
    for row in snapshots {
        let mut to = references(&row.namespace, &row.info.labels);
        to.extend(parent_node(row));
        edges.insert(snapshot_node(row), to);
    }
    edges
}

/// What the labels of an object refer to.
fn references(namespace: &str, labels: &Labels) -> Vec<Node> {
    let mut found = Vec::new();
    for (name, value) in labels {
        if let Some(rest) = name.strip_prefix(labels::GC_REF_CONTENT)
            && (rest.is_empty() || rest.starts_with(['.', '/']))
        {
            found.push(blob_node(namespace, value));
        } else if let Some(rest) = name.strip_prefix(labels::GC_REF_SNAPSHOT)
            && let Some(rest) = rest.strip_prefix('.')
        {
            let snapshotter = rest.split(['.', '/']).next().unwrap_or(rest);
            found.push(Node::Snapshot {
                namespace: namespace.to_owned(),
                snapshotter: snapshotter.to_owned(),
                key: value.clone(),
            });
        }
    }
    found
}

fn mark(roots: Vec<Node>, edges: &HashMap<Node, Vec<Node>>) -> HashSet<Node> {
    let mut needed = HashSet::new();
    let mut pending = roots;
    while let Some(node) = pending.pop() {
        if needed.contains(&node) {
            continue;
        }
        if let Some(next) = edges.get(&node) {
            pending.extend(next.iter().cloned());
        }
        needed.insert(node);
    }
    needed
}

fn sweep_ingests(store: &Store) -> Result<u64, CollectError> {
    let leased: HashSet<(String, String)> = store
        .read(|tx| tx.leased_resources(jiff::Timestamp::now()))?
        .into_iter()
        .filter_map(|(namespace, resource)| match resource {
            Resource::Ingest(reference) => Some((namespace, reference)),
            _ => None,
        })
        .collect();
    let now = SystemTime::now();
    let mut removed = 0;
    for ingest in store.content().ingests()? {
        let age = now.duration_since(ingest.updated_at).unwrap_or_default();
        let identity = (ingest.namespace.clone(), ingest.reference.clone());
        let is_needed = age < INGEST_MAX_AGE || leased.contains(&identity);
        if !is_needed && store.content().remove_ingest(&ingest)? {
            removed += 1;
        }
    }
    Ok(removed)
}

fn blob_node(namespace: &str, digest: &str) -> Node {
    Node::Blob { namespace: namespace.to_owned(), digest: digest.to_owned() }
}

fn snapshot_node(row: &SnapshotRow) -> Node {
    Node::Snapshot {
        namespace: row.namespace.clone(),
        snapshotter: row.snapshotter.clone(),
        key: row.info.key.clone(),
    }
}

fn parent_node(row: &SnapshotRow) -> Option<Node> {
    row.info.parent.as_ref().map(|parent| Node::Snapshot {
        namespace: row.namespace.clone(),
        snapshotter: row.snapshotter.clone(),
        key: parent.clone(),
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        CommitOptions, Container, CopySnapshotter, Descriptor, Digest, Lease, PrepareOptions,
    };

    struct Fixture {
        root: tempfile::TempDir,
        store: Store,
        snapshotter: CopySnapshotter,
        ns: Namespace,
    }

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let store = Store::open(root.path()).unwrap();
            let snapshotter = CopySnapshotter::new(&store);
            Self { root, store, snapshotter, ns: Namespace::default() }
        }

        fn blob(&self, text: &str, labels: &[(&str, &str)]) -> Digest {
            let labels =
                labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            self.store.content().write_blob(&self.ns, text.as_bytes(), &labels, None).unwrap()
        }

        fn layer(&self, name: &str, parent: Option<&str>) {
            let active = format!("active-{name}");
            let options = PrepareOptions::default();
            self.snapshotter.prepare(&self.ns, &active, parent, &options).unwrap();
            self.snapshotter.commit(&self.ns, name, &active, &CommitOptions::default()).unwrap();
        }

        fn collect(&self) -> Collected {
            collect(&self.store, &[&self.snapshotter]).unwrap()
        }

        fn keys(&self) -> Vec<String> {
            let infos = self.snapshotter.walk(&self.ns).unwrap();
            infos.into_iter().map(|info| info.key).collect()
        }

        fn has(&self, digest: &Digest) -> bool {
            let entered = self.store.content().info(&self.ns, digest).unwrap().is_some();
            let file = self.root.path().join("content/blobs/sha256").join(digest.hex());
            assert_eq!(entered, file.exists(), "{digest}: row and file disagree");
            entered
        }
    }

    #[test]
    fn everything_an_image_reaches_stays_and_the_rest_goes() {
        let fixture = Fixture::new();
        fixture.layer("below", None);
        fixture.layer("chain", Some("below"));
        fixture.layer("unused", Some("below"));
        let layer = fixture.blob("layer", &[]);
        let config = fixture.blob("config", &[("containerd.io/gc.ref.snapshot.copy", "chain")]);
        let manifest = fixture.blob(
            "manifest",
            &[
                ("containerd.io/gc.ref.content.config", config.as_str()),
                ("containerd.io/gc.ref.content.l.0", layer.as_str()),
            ],
        );
        let unused = fixture.blob("unused", &[]);
        let target = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: manifest.clone(),
            size_bytes: 8,
        };
        let ns = &fixture.ns;
        fixture
            .store
            .transaction(|tx| tx.create_image(ns, "image", &target, &Labels::new()))
            .unwrap();

        let first = fixture.collect();
        let kept = [&layer, &config, &manifest].map(|digest| fixture.has(digest));
        let keys = fixture.keys();
        fixture.store.transaction(|tx| tx.delete_image(ns, "image")).unwrap();
        let second = fixture.collect();

        assert_eq!((first.blobs, first.blob_bytes, first.snapshots), (1, 6, 1));
        assert_eq!((kept, fixture.has(&unused)), ([true; 3], false));
        assert_eq!(keys, ["below", "chain"]);
        assert_eq!((second.blobs, second.snapshots), (3, 2));
        assert_eq!(fixture.keys(), Vec::<String>::new());
    }

    #[test]
    fn a_container_keeps_its_snapshot_and_those_below() {
        let fixture = Fixture::new();
        fixture.layer("image", None);
        let ns = &fixture.ns;
        let options = PrepareOptions::default();
        fixture.snapshotter.prepare(ns, "box", Some("image"), &options).unwrap();
        fixture.snapshotter.prepare(ns, "lost", Some("image"), &options).unwrap();
        let mut record = Container::new("box");
        record.snapshotter = "copy".to_owned();
        record.snapshot_key = "box".to_owned();
        fixture.store.transaction(|tx| tx.create_container(ns, &record)).unwrap();

        fixture.collect();

        assert_eq!(fixture.keys(), ["image", "box"]);
    }

    #[test]
    fn a_lease_keeps_things_until_it_ends() {
        let fixture = Fixture::new();
        let ns = &fixture.ns;
        let digest = fixture.blob("x", &[]);
        fixture
            .store
            .transaction(|tx| {
                tx.create_lease(ns, &Lease::new("l", None))?;
                tx.add_to_lease(ns, "l", &Resource::Blob(digest.clone()))
            })
            .unwrap();

        let kept = (fixture.collect(), fixture.has(&digest)).1;
        let past = Some(Timestamp::from_second(1).unwrap());
        fixture.store.transaction(|tx| tx.set_lease_end(ns, "l", past)).unwrap();
        fixture.collect();

        assert!(kept && !fixture.has(&digest));
        assert_eq!(fixture.store.read(|tx| tx.leases(ns)).unwrap(), []);
    }

    #[test]
    fn a_cycle_of_references_neither_hangs_nor_keeps_itself() {
        let fixture = Fixture::new();
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        fixture.blob("a", &[(labels::GC_REF_CONTENT, b.as_str())]);
        fixture.blob("b", &[(labels::GC_REF_CONTENT, a.as_str())]);

        fixture.collect();

        assert!(!fixture.has(&a) && !fixture.has(&b));
    }

    #[test]
    fn debris_of_a_crash_is_found_and_a_fresh_transfer_is_not_touched() {
        let fixture = Fixture::new();
        let root = fixture.root.path();
        let orphan = Digest::sha256(b"orphan");
        std::fs::write(root.join("content/blobs/sha256").join(orphan.hex()), b"orphan").unwrap();
        std::fs::create_dir_all(root.join("snapshots/77/fs")).unwrap();
        std::fs::create_dir_all(root.join("snapshots/new-78/fs")).unwrap();
        std::fs::create_dir_all(root.join("snapshots/mine")).unwrap();
        let content = fixture.store.content();
        let old = content.ingest(&fixture.ns, "old", crate::Algorithm::Sha256).unwrap();
        drop(old);
        let ancient = SystemTime::now() - 2 * INGEST_MAX_AGE;
        let status = content.ingests().unwrap().pop().unwrap();
        std::fs::File::open(status.dir.join("data")).unwrap().set_modified(ancient).unwrap();
        drop(content.ingest(&fixture.ns, "fresh", crate::Algorithm::Sha256).unwrap());

        let collected = fixture.collect();

        let left: Vec<_> = content.ingests().unwrap().into_iter().map(|s| s.reference).collect();
        assert_eq!((collected.blobs, collected.snapshots, collected.ingests), (1, 2, 1));
        assert_eq!(left, ["fresh"]);
        assert!(root.join("snapshots/mine").exists() && !root.join("snapshots/77").exists());
    }

    #[test]
    fn blobs_that_come_in_during_collections_are_never_lost() {
        let fixture = Fixture::new();
        let ns = &fixture.ns;
        fixture.store.transaction(|tx| tx.create_lease(ns, &Lease::new("l", None))).unwrap();
        let content = fixture.store.content();

        let written: Vec<Digest> = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut written = Vec::new();
                for index in 0..60_u32 {
                    let text = (index % 20).to_string();
                    // Unleased first, so that it may be collected, and then once more, leased.
                    content.write_blob(ns, text.as_bytes(), &Labels::new(), None).unwrap();
                    let labels = Labels::new();
                    let digest =
                        content.write_blob(ns, text.as_bytes(), &labels, Some("l")).unwrap();
                    written.push(digest);
                }
                written
            });
            while !writer.is_finished() {
                fixture.collect();
            }
            writer.join().unwrap()
        });
        fixture.collect();

        assert_eq!(written.len(), 60);
        assert!(written.iter().all(|digest| fixture.has(digest)));
    }
}
