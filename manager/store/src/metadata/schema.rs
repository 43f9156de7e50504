//! The schema, as a list of migrations; `user_version` says how many of them a file has seen.
//!
//! Invariant: a migration that was ever released is never changed; a later one mends it.

use rusqlite::{Connection, TransactionBehavior};

use super::MetadataError;

/// What leads from each version to the next: index 0 from an empty file to version 1.
pub(super) const MIGRATIONS: [&str; 4] = [BASE, CONTAINERS, VOLUMES, BUILD_CACHE];

/// Content, images, snapshots and leases. Times are nanoseconds since 1970, labels JSON objects.
const BASE: &str = "
CREATE TABLE blobs (
    namespace  TEXT NOT NULL,
    digest     TEXT NOT NULL,
    size       INTEGER NOT NULL,
    labels     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    namespace  TEXT NOT NULL,
    name       TEXT NOT NULL,
    media_type TEXT NOT NULL,
    digest     TEXT NOT NULL,
    size       INTEGER NOT NULL,
    labels     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshotter TEXT NOT NULL,
    namespace   TEXT NOT NULL,
    key         TEXT NOT NULL,
    parent      TEXT,
    kind        TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
    labels      TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    id_base     INTEGER,
    id_count    INTEGER,
    size        INTEGER,
    inodes      INTEGER,
    UNIQUE (snapshotter, namespace, key),
    FOREIGN KEY (snapshotter, namespace, parent) REFERENCES snapshots (snapshotter, namespace, key)
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (snapshotter, namespace, parent);

CREATE TABLE leases (
    namespace  TEXT NOT NULL,
    id         TEXT NOT NULL,
    labels     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_resources (
    namespace TEXT NOT NULL,
    lease     TEXT NOT NULL,
    kind      TEXT NOT NULL,
    resource  TEXT NOT NULL,
    PRIMARY KEY (namespace, lease, kind, resource),
    FOREIGN KEY (namespace, lease) REFERENCES leases (namespace, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
";

/// Containers, and what is reserved for them: names and id ranges.
const CONTAINERS: &str = "
CREATE TABLE containers (
    namespace       TEXT NOT NULL,
    id              TEXT NOT NULL,
    labels          TEXT NOT NULL,
    image           TEXT NOT NULL,
    runtime         TEXT NOT NULL,
    runtime_options BLOB NOT NULL,
    spec            BLOB NOT NULL,
    snapshotter     TEXT NOT NULL,
    snapshot_key    TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE container_extensions (
    namespace TEXT NOT NULL,
    id        TEXT NOT NULL,
    name      TEXT NOT NULL,
    value     BLOB NOT NULL,
    PRIMARY KEY (namespace, id, name),
    FOREIGN KEY (namespace, id) REFERENCES containers (namespace, id)
        ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE TABLE names (
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    container TEXT NOT NULL,
    PRIMARY KEY (namespace, name),
    FOREIGN KEY (namespace, container) REFERENCES containers (namespace, id)
        ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;
CREATE INDEX names_by_container ON names (namespace, container);

CREATE TABLE id_ranges (
    base      INTEGER PRIMARY KEY,
    count     INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    container TEXT NOT NULL,
    UNIQUE (namespace, container),
    FOREIGN KEY (namespace, container) REFERENCES containers (namespace, id)
        ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
) STRICT;
";

/// Volumes, and which containers have them mounted; a volume that has a user cannot be deleted.
const VOLUMES: &str = "
CREATE TABLE volumes (
    namespace  TEXT NOT NULL,
    name       TEXT NOT NULL,
    labels     TEXT NOT NULL,
    options    TEXT NOT NULL,
    anonymous  INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE volume_users (
    namespace TEXT NOT NULL,
    volume    TEXT NOT NULL,
    container TEXT NOT NULL,
    PRIMARY KEY (namespace, volume, container),
    FOREIGN KEY (namespace, volume) REFERENCES volumes (namespace, name),
    FOREIGN KEY (namespace, container) REFERENCES containers (namespace, id)
        ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_users_by_container ON volume_users (namespace, container);
";

/// Results of build steps, by what they were made of.
const BUILD_CACHE: &str = "
CREATE TABLE build_cache (
    namespace   TEXT NOT NULL,
    key         TEXT NOT NULL,
    result      TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    snapshot    TEXT,
    blob        TEXT,
    details     TEXT NOT NULL,
    description TEXT NOT NULL,
    size        INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    used_at     INTEGER NOT NULL,
    uses        INTEGER NOT NULL,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX build_cache_by_snapshot ON build_cache (snapshotter, namespace, snapshot);
";

/// Brings the database to the newest version, each step in a transaction of its own.
pub(super) fn migrate(
    connection: &mut Connection,
    migrations: &[&str],
) -> Result<(), MetadataError> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    loop {
        let tx = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(MetadataError::sql("begin a migration"))?;
        let found: i64 = tx
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(MetadataError::sql("read the schema version"))?;
        let Some(step) = usize::try_from(found).ok().and_then(|index| migrations.get(index)) else {
            return if found == known {
                Ok(())
            } else {
                Err(MetadataError::TooNew { found, known })
            };
        };
        tx.execute_batch(step).map_err(MetadataError::sql("migrate the schema"))?;
        tx.pragma_update(None, "user_version", found + 1)
            .map_err(MetadataError::sql("write the schema version"))?;
        tx.commit().map_err(MetadataError::sql("commit a migration"))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_schema_is_migrated_and_keeps_its_rows() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &MIGRATIONS[..1]).unwrap();
        connection
            .execute("INSERT INTO images VALUES ('default', 'a', 't', 'd', 1, '{}', 2, 3)", [])
            .unwrap();

        migrate(&mut connection, &MIGRATIONS).unwrap();

        let name: String =
            connection.query_row("SELECT name FROM images", [], |row| row.get(0)).unwrap();
        let containers: i64 =
            connection.query_row("SELECT count(*) FROM containers", [], |row| row.get(0)).unwrap();
        assert_eq!((name.as_str(), containers), ("a", 0));
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &MIGRATIONS).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();

        let refused = migrate(&mut connection, &MIGRATIONS).unwrap_err();

        let newest = i64::try_from(MIGRATIONS.len()).unwrap();
        assert!(
            matches!(refused, MetadataError::TooNew { found: 99, known } if known == newest),
            "{refused:?}"
        );
        let version: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, 99);
    }

    #[test]
    fn a_failed_migration_leaves_the_version_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();

        let failed = migrate(&mut connection, &[BASE, "CREATE TABLE t (a); SELECT nonsense;"]);

        assert!(failed.is_err());
        let version: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 't'", [], |row| row.get(0))
            .unwrap();
        assert_eq!((version, tables), (1, 0));
    }
}
