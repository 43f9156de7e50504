//! Connections and transactions.

use std::fs::OpenOptions;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Row, Transaction, TransactionBehavior};

use super::{MetadataError, schema};
use crate::Labels;

/// How long a statement waits for another process (an operator's `sqlite3`) to let go.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Read connections that are kept open while idle.
const MAX_IDLE_READERS: usize = 4;

/// Size of a connection's page cache, in KiB.
const CACHE_KIB: i64 = 1024;

/// The database file, opened; clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    shared: Arc<Shared>,
}

/// What a change must have outlived before its transaction returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The machine's power: the change is on the disk.
    PowerCut,
    /// The death of this process. A power cut may undo the change, and what was changed after it, up
    /// to the next one that must outlive it; it never undoes one without those after it.
    Crash,
}

impl Durability {
    /// SQLite's name for it, in WAL mode.
    fn synchronous(self) -> &'static str {
        match self {
            Self::PowerCut => "FULL",
            Self::Crash => "NORMAL",
        }
    }
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Connection>>,
}

/// The connection that writes, and what it is set to.
#[derive(Debug)]
struct Writer {
    connection: Connection,
    durability: Durability,
}

impl Writer {
    /// Begins a transaction that is as durable as that once it is committed.
    fn begin(&mut self, durability: Durability) -> rusqlite::Result<Transaction<'_>> {
        if self.durability != durability {
            self.connection.pragma_update(None, "synchronous", durability.synchronous())?;
            self.durability = durability;
        }
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }
}

impl Database {
    /// Opens the file, made if missing, and migrates it.
    pub(crate) fn open(path: &Path) -> Result<Self, MetadataError> {
        // SQLite would make the file readable by everybody, and gives its companions its mode.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| MetadataError::Sql {
                operation: "create the file",
                source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
            })?;
        let mut writer = Writer { connection: connect(path)?, durability: Durability::PowerCut };
        schema::migrate(&mut writer.connection, &schema::MIGRATIONS)?;
        let shared = Shared {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            readers: Mutex::new(Vec::new()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn transaction<T, E: From<MetadataError>>(
        &self,
        durability: Durability,
        body: impl FnOnce(&WriteTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = lock(&self.shared.writer);
        let sql = writer.begin(durability).map_err(MetadataError::sql("begin a transaction"))?;
        let tx = WriteTx { read: ReadTx { sql }, now: Timestamp::now() };
        let value = body(&tx)?;
        tx.read.sql.commit().map_err(MetadataError::sql("commit"))?;
        Ok(value)
    }

    pub(crate) fn read<T, E: From<MetadataError>>(
        &self,
        body: impl FnOnce(&ReadTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = lock(&self.shared.readers).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => connect(&self.shared.path)?,
        };
        let (outcome, ended) = {
            let sql = connection.transaction().map_err(MetadataError::sql("begin to read"))?;
            let tx = ReadTx { sql };
            let outcome = body(&tx);
            (outcome, tx.sql.rollback())
        };
        let mut readers = lock(&self.shared.readers);
        if ended.is_ok() && readers.len() < MAX_IDLE_READERS {
            readers.push(connection);
        }
        outcome
    }
}

/// A panic inside a transaction rolled it back, so the connection behind a poisoned lock is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path) -> Result<Connection, MetadataError> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", Durability::PowerCut.synchronous())?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(MetadataError::sql("open the file"))
}

/// One consistent state of the database, for queries.
#[derive(Debug)]
pub struct ReadTx<'a> {
    pub(super) sql: Transaction<'a>,
}

/// A transaction that may change the database; also a [`ReadTx`].
#[derive(Debug)]
pub struct WriteTx<'a> {
    read: ReadTx<'a>,
    now: Timestamp,
}

impl<'a> Deref for WriteTx<'a> {
    type Target = ReadTx<'a>;

    fn deref(&self) -> &ReadTx<'a> {
        &self.read
    }
}

impl WriteTx<'_> {
    /// Returns the time that this transaction writes into what it creates and updates.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }
}

impl ReadTx<'_> {
    /// Returns what SQLite finds wrong with the database: damaged pages, rows that refer to nothing.
    pub(crate) fn integrity_problems(&self) -> Result<Vec<String>, MetadataError> {
        let text = |row: &Row<'_>| row.get(0).map_err(MetadataError::sql("check the database"));
        let mut problems: Vec<String> = self.rows("PRAGMA quick_check(20)", [], text)?;
        problems.retain(|problem| problem != "ok");
        let orphans: Vec<String> = self.rows("PRAGMA foreign_key_check", [], text)?;
        let tell = |table: String| format!("a row of {table} refers to nothing");
        problems.extend(orphans.into_iter().map(tell));
        Ok(problems)
    }

    /// Collects the rows of a query, each made into a `T`.
    pub(super) fn rows<T>(
        &self,
        query: &str,
        params: impl rusqlite::Params,
        mut make: impl FnMut(&Row<'_>) -> Result<T, MetadataError>,
    ) -> Result<Vec<T>, MetadataError> {
        let mut statement =
            self.sql.prepare_cached(query).map_err(MetadataError::sql("prepare a query"))?;
        let mut rows = statement.query(params).map_err(MetadataError::sql("query"))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(MetadataError::sql("read a row"))? {
            found.push(make(row)?);
        }
        Ok(found)
    }

    /// Returns the only row of a query, made into a `T`, if there is one.
    pub(super) fn row<T>(
        &self,
        query: &str,
        params: impl rusqlite::Params,
        make: impl FnMut(&Row<'_>) -> Result<T, MetadataError>,
    ) -> Result<Option<T>, MetadataError> {
        Ok(self.rows(query, params, make)?.pop())
    }

    /// Runs a statement and returns how many rows it changed.
    pub(super) fn change(
        &self,
        statement: &str,
        params: impl rusqlite::Params,
    ) -> rusqlite::Result<usize> {
        self.sql.prepare_cached(statement)?.execute(params)
    }
}

/// Reads a column.
pub(super) fn column<T: rusqlite::types::FromSql>(
    row: &Row<'_>,
    name: &'static str,
) -> Result<T, MetadataError> {
    row.get(name).map_err(MetadataError::sql("read a column"))
}

/// Nanoseconds since 1970, as times are stored.
pub(super) fn to_nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// Reads a time.
pub(super) fn time(row: &Row<'_>, name: &'static str) -> Result<Timestamp, MetadataError> {
    let nanos: i64 = column(row, name)?;
    // Every i64 of nanoseconds lies between the years 1677 and 2262, which a Timestamp can hold.
    Ok(Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Labels as they are stored.
pub(super) fn to_json(labels: &Labels) -> String {
    // Maps of strings always have a JSON form.
    serde_json::to_string(labels).unwrap_or_else(|_| "{}".to_owned())
}

/// Reads labels.
pub(super) fn labels(
    row: &Row<'_>,
    what: &'static str,
    key: &str,
) -> Result<Labels, MetadataError> {
    let text: String = column(row, "labels")?;
    serde_json::from_str(&text).map_err(|_| MetadataError::Damaged {
        what,
        key: key.to_owned(),
        column: "labels",
    })
}
