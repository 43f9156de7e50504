//! Images: names for descriptors.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::{column, labels, time, to_json, to_nanos};
use super::{MetadataError, ReadTx, WriteTx};
use crate::{Descriptor, Labels, Namespace};

const WHAT: &str = "image";

/// A name, and the manifest or index that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Name, for example `docker.io/library/busybox:latest`.
    pub name: String,
    /// What it stands for.
    pub target: Descriptor,
    /// Labels.
    pub labels: Labels,
    /// When the name was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl ReadTx<'_> {
    /// Returns an image.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is no image of that name.
    pub fn image(&self, ns: &Namespace, name: &str) -> Result<Image, MetadataError> {
        self.find_image(ns, name)?.ok_or_else(|| MetadataError::not_found(WHAT, ns, name))
    }

    /// Returns an image, if there is one of that name.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn find_image(&self, ns: &Namespace, name: &str) -> Result<Option<Image>, MetadataError> {
        self.row(
            "SELECT * FROM images WHERE namespace = ?1 AND name = ?2",
            [ns.as_str(), name],
            image,
        )
    }

    /// Returns all images of the namespace, by name.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn images(&self, ns: &Namespace) -> Result<Vec<Image>, MetadataError> {
        self.rows("SELECT * FROM images WHERE namespace = ?1 ORDER BY name", [ns.as_str()], image)
    }

    /// Returns namespace, name and target digest of every image.
    pub(crate) fn all_images(&self) -> Result<Vec<(String, String, String)>, MetadataError> {
        self.rows(
            "SELECT namespace, name, digest FROM images ORDER BY namespace, name",
            [],
            |row| Ok((column(row, "namespace")?, column(row, "name")?, column(row, "digest")?)),
        )
    }

    /// Returns namespace and target digest of every image.
    pub(crate) fn image_targets(&self) -> Result<Vec<(String, String)>, MetadataError> {
        self.rows("SELECT namespace, digest FROM images", [], |row| {
            Ok((column(row, "namespace")?, column(row, "digest")?))
        })
    }
}

impl WriteTx<'_> {
    /// Makes an image.
    ///
    /// # Errors
    /// [`MetadataError::Exists`] if the name is taken.
    pub fn create_image(
        &self,
        ns: &Namespace,
        name: &str,
        target: &Descriptor,
        labels: &Labels,
    ) -> Result<(), MetadataError> {
        self.change(
            INSERT,
            params![
                ns.as_str(),
                name,
                target.media_type,
                target.digest.as_str(),
                target.size_bytes,
                to_json(labels),
                to_nanos(self.now())
            ],
        )
        .map_err(|source| MetadataError::insert(WHAT, ns, name, source))?;
        Ok(())
    }

    /// Makes an image, or lets an existing name stand for `target`; returns what it stood for
    /// before.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn put_image(
        &self,
        ns: &Namespace,
        name: &str,
        target: &Descriptor,
        labels: &Labels,
    ) -> Result<Option<Image>, MetadataError> {
        let Some(before) = self.find_image(ns, name)? else {
            self.create_image(ns, name, target, labels)?;
            return Ok(None);
        };
        self.change(
            "UPDATE images SET media_type = ?3, digest = ?4, size = ?5, labels = ?6, updated_at = ?7
             WHERE namespace = ?1 AND name = ?2",
            params![
                ns.as_str(),
                name,
                target.media_type,
                target.digest.as_str(),
                target.size_bytes,
                to_json(labels),
                to_nanos(self.now())
            ],
        )
        .map_err(MetadataError::sql("update an image"))?;
        Ok(Some(before))
    }

    /// Removes a name; what it stood for goes with the next collection, if nothing else needs it.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is no image of that name.
    pub fn delete_image(&self, ns: &Namespace, name: &str) -> Result<(), MetadataError> {
        let deleted = self
            .change("DELETE FROM images WHERE namespace = ?1 AND name = ?2", [ns.as_str(), name])
            .map_err(MetadataError::sql("delete an image"))?;
        if deleted == 0 {
            return Err(MetadataError::not_found(WHAT, ns, name));
        }
        Ok(())
    }
}

const INSERT: &str = "
INSERT INTO images (namespace, name, media_type, digest, size, labels, created_at, updated_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)";

fn image(row: &Row<'_>) -> Result<Image, MetadataError> {
    let name: String = column(row, "name")?;
    let digest: String = column(row, "digest")?;
    let damaged = |_| MetadataError::Damaged { what: WHAT, key: name.clone(), column: "digest" };
    Ok(Image {
        target: Descriptor {
            media_type: column(row, "media_type")?,
            digest: digest.parse().map_err(damaged)?,
            size_bytes: column(row, "size")?,
        },
        labels: labels(row, WHAT, &name)?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        name,
    })
}
