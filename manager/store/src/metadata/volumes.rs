//! Volumes: directories that outlive containers, and who has them mounted.
//!
//! A container's record and the rows that make it a user of its volumes appear in one transaction,
//! and vanish in one. So a volume is never deleted between the moment at which a container was
//! promised it and the container's end.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::{column, labels, time, to_json, to_nanos};
use super::{MetadataError, ReadTx, WriteTx};
use crate::{Labels, Namespace};

const WHAT: &str = "volume";

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// What is mounted as it, in the words of mount(8): `type`, `o`, `device`; empty: a directory
    /// of the daemon's own.
    pub options: Labels,
    /// Whether nobody named it, so that it goes with its container if that is asked for.
    pub anonymous: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

impl ReadTx<'_> {
    /// Returns a volume, if there is one of that name.
    ///
    /// # Errors
    /// [`MetadataError::Damaged`], or if the database fails.
    pub fn find_volume(&self, ns: &Namespace, name: &str) -> Result<Option<Volume>, MetadataError> {
        self.row(
            "SELECT * FROM volumes WHERE namespace = ?1 AND name = ?2",
            [ns.as_str(), name],
            volume,
        )
    }

    /// Returns a volume.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is none of that name.
    pub fn volume(&self, ns: &Namespace, name: &str) -> Result<Volume, MetadataError> {
        self.find_volume(ns, name)?.ok_or_else(|| MetadataError::not_found(WHAT, ns, name))
    }

    /// Returns all volumes, in order of their names.
    ///
    /// # Errors
    /// [`MetadataError::Damaged`], or if the database fails.
    pub fn volumes(&self, ns: &Namespace) -> Result<Vec<Volume>, MetadataError> {
        self.rows("SELECT * FROM volumes WHERE namespace = ?1 ORDER BY name", [ns.as_str()], volume)
    }

    /// Returns the ids of the containers that have a volume mounted when they run, in order.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn volume_users(&self, ns: &Namespace, name: &str) -> Result<Vec<String>, MetadataError> {
        self.rows(
            "SELECT container FROM volume_users WHERE namespace = ?1 AND volume = ?2
             ORDER BY container",
            [ns.as_str(), name],
            |row| column(row, "container"),
        )
    }
}

impl WriteTx<'_> {
    /// Makes a volume.
    ///
    /// # Errors
    /// [`MetadataError::Exists`] if the name is taken.
    pub fn create_volume(&self, ns: &Namespace, new: &Volume) -> Result<(), MetadataError> {
        self.change(
            "INSERT INTO volumes (namespace, name, labels, options, anonymous, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                ns.as_str(),
                new.name,
                to_json(&new.labels),
                to_json(&new.options),
                new.anonymous,
                to_nanos(new.created_at),
            ],
        )
        .map_err(|source| MetadataError::insert(WHAT, ns, &new.name, source))?;
        Ok(())
    }

    /// Makes a container a user of a volume, until the container's record is deleted. The record
    /// must exist when the transaction commits; to be a user twice is the same as once.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is no such volume.
    pub fn use_volume(
        &self,
        ns: &Namespace,
        name: &str,
        container: &str,
    ) -> Result<(), MetadataError> {
        self.volume(ns, name)?;
        self.change(
            "INSERT OR IGNORE INTO volume_users (namespace, volume, container) VALUES (?1, ?2, ?3)",
            [ns.as_str(), name, container],
        )
        .map_err(MetadataError::sql("use a volume"))?;
        Ok(())
    }

    /// Deletes a volume's row; its directory is the caller's to remove.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is none of that name, [`MetadataError::StillNeeded`] if
    /// a container uses it.
    pub fn delete_volume(&self, ns: &Namespace, name: &str) -> Result<(), MetadataError> {
        self.volume(ns, name)?;
        if !self.volume_users(ns, name)?.is_empty() {
            return Err(MetadataError::StillNeeded {
                what: WHAT,
                key: name.to_owned(),
                needed_by: "a container",
            });
        }
        self.change("DELETE FROM volumes WHERE namespace = ?1 AND name = ?2", [ns.as_str(), name])
            .map_err(MetadataError::sql("delete a volume"))?;
        Ok(())
    }
}

fn volume(row: &Row<'_>) -> Result<Volume, MetadataError> {
    let name: String = column(row, "name")?;
    let options: String = column(row, "options")?;
    Ok(Volume {
        labels: labels(row, WHAT, &name)?,
        options: serde_json::from_str(&options).map_err(|_| MetadataError::Damaged {
            what: WHAT,
            key: name.clone(),
            column: "options",
        })?,
        anonymous: column(row, "anonymous")?,
        created_at: time(row, "created_at")?,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Container, Store};

    fn volume(name: &str) -> Volume {
        Volume {
            name: name.to_owned(),
            labels: [("tier".to_owned(), "db".to_owned())].into(),
            options: [("type".to_owned(), "tmpfs".to_owned())].into(),
            anonymous: true,
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn with_user() -> (tempfile::TempDir, Store, Namespace) {
        let root = tempfile::tempdir().unwrap();
        let (store, ns) = (Store::open(root.path()).unwrap(), Namespace::default());
        store
            .transaction(|tx| {
                tx.create_volume(&ns, &volume("data"))?;
                tx.create_container(&ns, &Container::new("web"))?;
                tx.use_volume(&ns, "data", "web")?;
                tx.use_volume(&ns, "data", "web")
            })
            .unwrap();
        (root, store, ns)
    }

    #[test]
    fn a_volume_is_read_back_as_it_was_written() {
        let (_root, store, ns) = with_user();

        let read = store.read(|tx| tx.volume(&ns, "data")).unwrap();
        let all = store.read(|tx| tx.volumes(&ns)).unwrap();

        assert_eq!((&read, all.as_slice()), (&volume("data"), &[volume("data")][..]));
    }

    #[test]
    fn a_volume_stays_while_a_container_uses_it_and_the_container_takes_its_use_along() {
        let (_root, store, ns) = with_user();

        let refused = store.transaction(|tx| tx.delete_volume(&ns, "data")).unwrap_err();
        let users = store.read(|tx| tx.volume_users(&ns, "data")).unwrap();
        store.transaction(|tx| tx.delete_container(&ns, "web")).unwrap();
        let deleted = store.transaction(|tx| tx.delete_volume(&ns, "data"));

        assert!(matches!(refused, MetadataError::StillNeeded { what: "volume", .. }));
        assert_eq!(users, ["web"]);
        assert!(deleted.is_ok());
        assert!(store.read(|tx| tx.find_volume(&ns, "data")).unwrap().is_none());
    }

    #[test]
    fn names_are_taken_once_and_unknown_ones_cannot_be_used() {
        let (_root, store, ns) = with_user();

        let again = store.transaction(|tx| tx.create_volume(&ns, &volume("data"))).unwrap_err();
        let unknown = store.transaction(|tx| tx.use_volume(&ns, "none", "web")).unwrap_err();

        assert!(matches!(again, MetadataError::Exists { what: "volume", .. }));
        assert!(matches!(unknown, MetadataError::NotFound { what: "volume", .. }));
    }
}
