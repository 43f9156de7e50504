//! Containers: records, as containerd has them, and the names that people give them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::database::{column, labels, time, to_json, to_nanos};
use super::{MetadataError, ReadTx, WriteTx};
use crate::{Labels, Namespace};

const WHAT: &str = "container";

/// The parameters of [`INSERT`] and [`UPDATE`].
macro_rules! record_params {
    ($ns:expr, $record:expr) => {
        params![
            $ns.as_str(),
            $record.id,
            to_json(&$record.labels),
            $record.image,
            $record.runtime.name,
            $record.runtime.options,
            $record.spec,
            $record.snapshotter,
            $record.snapshot_key,
            to_nanos($record.created_at),
            to_nanos($record.updated_at)
        ]
    };
}

/// Which runtime runs a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Runtime {
    /// Name, for example `io.containerd.keg.v2`.
    pub name: String,
    /// Options for it, in its own form.
    pub options: Vec<u8>,
}

/// What is recorded of a container. Whether it runs is not: that is the shim's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id, unique in the namespace.
    pub id: String,
    /// Labels.
    pub labels: Labels,
    /// Name of the image that it was made from; may be gone.
    pub image: String,
    /// What runs it.
    pub runtime: Runtime,
    /// OCI specification, or what the engine makes one from.
    pub spec: Vec<u8>,
    /// Name of the snapshotter that has its root filesystem; empty: it has none.
    pub snapshotter: String,
    /// Key of its snapshot.
    pub snapshot_key: String,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// What else its makers keep with it, by name.
    pub extensions: BTreeMap<String, Vec<u8>>,
}

impl Container {
    /// Returns a record with the given id, empty otherwise, made now.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        let now = Timestamp::now();
        Self {
            id: id.into(),
            labels: Labels::new(),
            image: String::new(),
            runtime: Runtime::default(),
            spec: Vec::new(),
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: now,
            updated_at: now,
            extensions: BTreeMap::new(),
        }
    }
}

impl ReadTx<'_> {
    /// Returns a container's record.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is none with that id.
    pub fn container(&self, ns: &Namespace, id: &str) -> Result<Container, MetadataError> {
        self.find_container(ns, id)?.ok_or_else(|| MetadataError::not_found(WHAT, ns, id))
    }

    /// Returns a container's record, if there is one with that id.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn find_container(
        &self,
        ns: &Namespace,
        id: &str,
    ) -> Result<Option<Container>, MetadataError> {
        let found = self.row(
            "SELECT * FROM containers WHERE namespace = ?1 AND id = ?2",
            [ns.as_str(), id],
            container,
        )?;
        found.map(|record| self.with_extensions(ns, record)).transpose()
    }

    /// Returns all containers of the namespace, newest first.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn containers(&self, ns: &Namespace) -> Result<Vec<Container>, MetadataError> {
        let found = self.rows(
            "SELECT * FROM containers WHERE namespace = ?1 ORDER BY created_at DESC, id",
            [ns.as_str()],
            container,
        )?;
        found.into_iter().map(|record| self.with_extensions(ns, record)).collect()
    }

    /// Returns the ids that begin with `prefix`, in order, but no more than `limit`.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn container_ids(
        &self,
        ns: &Namespace,
        prefix: &str,
        limit: u32,
    ) -> Result<Vec<String>, MetadataError> {
        self.rows(
            "SELECT id FROM containers WHERE namespace = ?1 AND substr(id, 1, length(?2)) = ?2
             ORDER BY id LIMIT ?3",
            params![ns.as_str(), prefix, limit],
            |row| column(row, "id"),
        )
    }

    /// Returns the id of the container that has the name, if one has.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn name_owner(&self, ns: &Namespace, name: &str) -> Result<Option<String>, MetadataError> {
        self.row(
            "SELECT container FROM names WHERE namespace = ?1 AND name = ?2",
            [ns.as_str(), name],
            |row| column(row, "container"),
        )
    }

    /// Returns the names of a container, in order.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn names_of(&self, ns: &Namespace, container: &str) -> Result<Vec<String>, MetadataError> {
        self.rows(
            "SELECT name FROM names WHERE namespace = ?1 AND container = ?2 ORDER BY name",
            [ns.as_str(), container],
            |row| column(row, "name"),
        )
    }

    /// Returns namespace, id, snapshotter and snapshot key of every container; the last two may be empty.
    pub(crate) fn all_containers(
        &self,
    ) -> Result<Vec<(String, String, String, String)>, MetadataError> {
        self.rows("SELECT namespace, id, snapshotter, snapshot_key FROM containers", [], |row| {
            Ok((
                column(row, "namespace")?,
                column(row, "id")?,
                column(row, "snapshotter")?,
                column(row, "snapshot_key")?,
            ))
        })
    }

    /// Returns namespace, snapshotter and snapshot key of every container that has a snapshot.
    pub(crate) fn container_snapshots(
        &self,
    ) -> Result<Vec<(String, String, String)>, MetadataError> {
        self.rows(
            "SELECT namespace, snapshotter, snapshot_key FROM containers WHERE snapshotter != ''",
            [],
            |row| {
                Ok((
                    column(row, "namespace")?,
                    column(row, "snapshotter")?,
                    column(row, "snapshot_key")?,
                ))
            },
        )
    }

    fn with_extensions(
        &self,
        ns: &Namespace,
        mut record: Container,
    ) -> Result<Container, MetadataError> {
        let extensions = self.rows(
            "SELECT name, value FROM container_extensions WHERE namespace = ?1 AND id = ?2",
            [ns.as_str(), &record.id],
            |row| Ok((column(row, "name")?, column(row, "value")?)),
        )?;
        record.extensions = extensions.into_iter().collect();
        Ok(record)
    }
}

impl WriteTx<'_> {
    /// Makes a record.
    ///
    /// # Errors
    /// [`MetadataError::Exists`] if the id is taken.
    pub fn create_container(&self, ns: &Namespace, new: &Container) -> Result<(), MetadataError> {
        self.change(INSERT, record_params!(ns, new))
            .map_err(|source| MetadataError::insert(WHAT, ns, &new.id, source))?;
        for (name, value) in &new.extensions {
            self.set_container_extension(ns, &new.id, name, value)?;
        }
        Ok(())
    }

    /// Replaces a record, its extensions too; `updated_at` becomes the transaction's time.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is none with that id.
    pub fn update_container(&self, ns: &Namespace, new: &Container) -> Result<(), MetadataError> {
        let new = &Container { updated_at: self.now(), ..new.clone() };
        let changed = self
            .change(UPDATE, record_params!(ns, new))
            .map_err(MetadataError::sql("update a container"))?;
        if changed == 0 {
            return Err(MetadataError::not_found(WHAT, ns, &new.id));
        }
        self.change(
            "DELETE FROM container_extensions WHERE namespace = ?1 AND id = ?2",
            [ns.as_str(), &new.id],
        )
        .map_err(MetadataError::sql("update a container"))?;
        for (name, value) in &new.extensions {
            self.set_container_extension(ns, &new.id, name, value)?;
        }
        Ok(())
    }

    /// Sets one extension of a record, and leaves the rest as it is.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is no record with that id.
    pub fn set_container_extension(
        &self,
        ns: &Namespace,
        id: &str,
        name: &str,
        value: &[u8],
    ) -> Result<(), MetadataError> {
        let changed = self
            .change(
                "INSERT OR REPLACE INTO container_extensions (namespace, id, name, value)
                 SELECT namespace, id, ?3, ?4 FROM containers WHERE namespace = ?1 AND id = ?2",
                params![ns.as_str(), id, name, value],
            )
            .map_err(MetadataError::sql("set an extension"))?;
        if changed == 0 {
            return Err(MetadataError::not_found(WHAT, ns, id));
        }
        Ok(())
    }

    /// Deletes a record, and gives back its names and its id range. Its snapshot stays: remove it
    /// in the same transaction, or leave it to the collection.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is none with that id.
    pub fn delete_container(&self, ns: &Namespace, id: &str) -> Result<(), MetadataError> {
        let deleted = self
            .change("DELETE FROM containers WHERE namespace = ?1 AND id = ?2", [ns.as_str(), id])
            .map_err(MetadataError::sql("delete a container"))?;
        if deleted == 0 {
            return Err(MetadataError::not_found(WHAT, ns, id));
        }
        Ok(())
    }

    /// Gives a name to a container; both live and die with the container's record, which must
    /// exist when the transaction commits.
    ///
    /// # Errors
    /// [`MetadataError::NameInUse`] if a container of the namespace has it.
    pub fn reserve_name(
        &self,
        ns: &Namespace,
        name: &str,
        container: &str,
    ) -> Result<(), MetadataError> {
        if let Some(owner) = self.name_owner(ns, name)? {
            return Err(MetadataError::NameInUse { name: name.to_owned(), owner });
        }
        self.change(
            "INSERT INTO names (namespace, name, container) VALUES (?1, ?2, ?3)",
            [ns.as_str(), name, container],
        )
        .map_err(|source| MetadataError::insert("name", ns, name, source))?;
        Ok(())
    }

    /// Takes a name back and returns the id of the container that had it.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if no container has it.
    pub fn release_name(&self, ns: &Namespace, name: &str) -> Result<String, MetadataError> {
        self.sql
            .query_row(
                "DELETE FROM names WHERE namespace = ?1 AND name = ?2 RETURNING container",
                [ns.as_str(), name],
                |row| row.get(0),
            )
            .optional()
            .map_err(MetadataError::sql("release a name"))?
            .ok_or_else(|| MetadataError::not_found("name", ns, name))
    }
}

const INSERT: &str = "
INSERT INTO containers (namespace, id, labels, image, runtime, runtime_options, spec, snapshotter,
                        snapshot_key, created_at, updated_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

const UPDATE: &str = "
UPDATE containers
SET labels = ?3, image = ?4, runtime = ?5, runtime_options = ?6, spec = ?7, snapshotter = ?8,
    snapshot_key = ?9, created_at = ?10, updated_at = ?11
WHERE namespace = ?1 AND id = ?2";

fn container(row: &Row<'_>) -> Result<Container, MetadataError> {
    let id: String = column(row, "id")?;
    Ok(Container {
        labels: labels(row, WHAT, &id)?,
        image: column(row, "image")?,
        runtime: Runtime {
            name: column(row, "runtime")?,
            options: column(row, "runtime_options")?,
        },
        spec: column(row, "spec")?,
        snapshotter: column(row, "snapshotter")?,
        snapshot_key: column(row, "snapshot_key")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        extensions: BTreeMap::new(),
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IdRangePool, Store};

    fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        (root, store)
    }

    fn record(id: &str) -> Container {
        let mut record = Container::new(id);
        record.labels.insert("a".to_owned(), "b".to_owned());
        record.image = "docker.io/library/busybox:latest".to_owned();
        record.runtime = Runtime { name: "io.containerd.keg.v2".to_owned(), options: vec![1, 0] };
        record.spec = b"{}".to_vec();
        record.snapshotter = "overlayfs".to_owned();
        record.snapshot_key = id.to_owned();
        record.extensions.insert("keg.config".to_owned(), vec![0, 255]);
        record
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written_by_another_opening() {
        let (root, store) = store();
        let ns = Namespace::default();
        let record = record("one");
        store.transaction(|tx| tx.create_container(&ns, &record)).unwrap();
        drop(store);

        let store = Store::open(root.path()).unwrap();
        let read = store.read(|tx| tx.container(&ns, "one")).unwrap();

        assert_eq!(read, record);
    }

    #[test]
    fn deleting_a_record_gives_back_its_name_and_its_range() {
        let (_root, store) = store();
        let ns = Namespace::default();
        let pool = IdRangePool::default();
        let create = |id: &str| {
            store.transaction(|tx| {
                tx.reserve_name(&ns, "web", id)?;
                let range = tx.allocate_id_range(&ns, id, &pool)?;
                tx.create_container(&ns, &record(id))?;
                Ok::<_, MetadataError>(range)
            })
        };

        let first = create("one").unwrap();
        let refused = create("two").unwrap_err();
        store.transaction(|tx| tx.delete_container(&ns, "one")).unwrap();
        let second = create("two").unwrap();

        assert!(
            matches!(refused, MetadataError::NameInUse { name, owner } if name == "web" && owner == "one")
        );
        assert_eq!(first, second);
        assert_eq!(store.read(|tx| tx.name_owner(&ns, "web")).unwrap().as_deref(), Some("two"));
    }

    #[test]
    fn a_name_for_a_record_that_is_never_made_is_not_kept() {
        let (_root, store) = store();
        let ns = Namespace::default();

        let outcome = store.transaction(|tx| tx.reserve_name(&ns, "web", "ghost"));

        assert!(outcome.is_err());
        assert_eq!(store.read(|tx| tx.name_owner(&ns, "web")).unwrap(), None);
    }

    #[test]
    fn ids_are_found_by_their_beginning_and_wildcards_are_plain_text() {
        let (_root, store) = store();
        let ns = Namespace::default();
        store
            .transaction(|tx| {
                ["abc1", "abd2", "x"]
                    .iter()
                    .try_for_each(|id| tx.create_container(&ns, &record(id)))
            })
            .unwrap();

        let found = |prefix: &str| store.read(|tx| tx.container_ids(&ns, prefix, 2)).unwrap();

        assert_eq!(found("ab"), ["abc1", "abd2"]);
        assert_eq!(found("abd"), ["abd2"]);
        assert_eq!(found("%"), Vec::<String>::new());
        assert_eq!(found("").len(), 2);
    }

    #[test]
    fn an_update_replaces_everything_but_one_extension_can_be_set_alone() {
        let (_root, store) = store();
        let ns = Namespace::default();
        let mut changed = record("one");
        store.transaction(|tx| tx.create_container(&ns, &changed)).unwrap();
        store
            .transaction(|tx| tx.set_container_extension(&ns, "one", "keg.state", b"running"))
            .unwrap();

        let between = store.read(|tx| tx.container(&ns, "one")).unwrap();
        changed.extensions.clear();
        changed.image = "other".to_owned();
        store.transaction(|tx| tx.update_container(&ns, &changed)).unwrap();
        let after = store.read(|tx| tx.container(&ns, "one")).unwrap();

        assert_eq!(between.extensions["keg.state"], b"running");
        assert_eq!(between.extensions.len(), 2);
        assert_eq!((after.image.as_str(), after.extensions.len()), ("other", 0));
        assert!(after.updated_at > changed.updated_at);
    }

    #[test]
    fn namespaces_do_not_see_each_others_containers() {
        let (_root, store) = store();
        let (ours, theirs) = (Namespace::default(), "k8s.io".parse::<Namespace>().unwrap());
        store.transaction(|tx| tx.create_container(&ours, &record("one"))).unwrap();

        let seen = store.read(|tx| tx.find_container(&theirs, "one")).unwrap();

        assert_eq!(seen, None);
    }
}
