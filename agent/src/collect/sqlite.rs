//! Records in SQLite.
//!
//! Owns: rusqlite; nothing else names it. Must not: decide what is a repeat but by the key of the table.
//!
//! Invariant: a commit is on the medium when it returns (`synchronous = FULL`).

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;

use super::{
    account::{Account, Change},
    batch::{Batch, Record},
    sink::{Put, Sink, SinkError},
};

/// The tables, as a consumer finds them in the documentation.
const SCHEMA: &str = include_str!("../../../docs/consumers/sqlite.sql");

/// A database that records go into.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: Connection,
    /// Whether a transaction is open.
    open: bool,
}

impl Sqlite {
    /// Opens or makes the database and reads the account of what it holds.
    ///
    /// # Errors
    /// When it cannot be opened, or is no database, or another process holds it for longer than five seconds.
    pub(super) fn open(path: &Path, account: &mut Account) -> Result<Self, SinkError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        restore(&connection, account)?;
        Ok(Self {
            connection,
            open: false,
        })
    }

    fn conflict(&self, batch: &Batch, record: &Record, text: &str) -> rusqlite::Result<bool> {
        let found: Option<String> = self
            .connection
            .prepare_cached(
                "SELECT body FROM records WHERE device = ?1 AND epoch = ?2 AND seq = ?3",
            )?
            .query_row(
                params![batch.device, signed(batch.epoch), signed(record.seq)],
                |row| row.get(0),
            )
            .optional()?;
        let differs = found.is_some_and(|found| found != text);
        if differs {
            self.connection
                .prepare_cached("INSERT OR IGNORE INTO conflicts VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    batch.device,
                    signed(batch.epoch),
                    signed(record.seq),
                    Value::Object(record.fields.clone()).to_string()
                ])?;
        }
        Ok(differs)
    }

    fn insert(&self, batch: &Batch, record: &Record, body: &str) -> rusqlite::Result<bool> {
        let text = |key: &str| record.fields.get(key).and_then(Value::as_str);
        let mono_ms = record.fields.get("mono_ms").and_then(Value::as_i64);
        let synced = record.fields.get("synced").and_then(Value::as_bool);
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO records (device, epoch, seq, kind, time, synced, boot, mono_ms, body) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (device, epoch, seq) DO NOTHING",
            )?
            .execute(params![
                batch.device,
                signed(batch.epoch),
                signed(record.seq),
                text("kind").unwrap_or("external"),
                text("time"),
                synced,
                text("boot"),
                mono_ms,
                body
            ])?;
        Ok(inserted == 1)
    }
}

impl Sink for Sqlite {
    fn put(
        &mut self,
        batch: &Batch,
        change: &Change,
        _account: &Account,
    ) -> Result<Put, SinkError> {
        if !self.open {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            self.open = true;
        }
        if let Some(base) = change.base {
            self.connection
                .prepare_cached("INSERT OR IGNORE INTO streams VALUES (?1, ?2, ?3)")?
                .execute(params![batch.device, signed(batch.epoch), signed(base)])?;
        }
        for (first, last) in &change.absent {
            self.connection
                .prepare_cached("INSERT OR IGNORE INTO absent VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    batch.device,
                    signed(batch.epoch),
                    signed(*first),
                    signed(*last)
                ])?;
        }
        let mut put = Put::default();
        for record in &batch.records {
            let body = record
                .fields
                .get("body")
                .unwrap_or(&Value::Null)
                .to_string();
            if self.insert(batch, record, &body)? {
                put.new += 1;
            } else if self.conflict(batch, record, &body)? {
                put.conflicts += 1;
            } else {
                put.repeats += 1;
            }
        }
        Ok(put)
    }

    fn commit(&mut self) -> Result<(), SinkError> {
        if self.open {
            self.connection.execute_batch("COMMIT")?;
            self.open = false;
        }
        Ok(())
    }
}

/// The numbers are at most 2^63 - 1: [`super::batch::read`] refuses others.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Reads the account: one pass over the key, which gives the records as ranges.
fn restore(connection: &Connection, account: &mut Account) -> Result<(), SinkError> {
    let mut bases = connection.prepare("SELECT device, epoch, base FROM streams")?;
    let mut rows = bases.query([])?;
    while let Some(row) = rows.next()? {
        let device: String = row.get(0)?;
        account.restore(&device, unsigned(row.get(1)?), unsigned(row.get(2)?));
    }
    // Gaps and islands: within a run without a gap, seq less its place is the same.
    let ranges = "SELECT device, epoch, MIN(seq), MAX(seq), 0 FROM (SELECT device, epoch, seq, \
         seq - ROW_NUMBER() OVER (PARTITION BY device, epoch ORDER BY seq) AS island FROM records) \
         GROUP BY device, epoch, island \
         UNION ALL SELECT device, epoch, first, last, 1 FROM absent";
    let mut ranges = connection.prepare(ranges)?;
    let mut rows = ranges.query([])?;
    while let Some(row) = rows.next()? {
        let device: String = row.get(0)?;
        let key = (device.as_str(), unsigned(row.get(1)?));
        let (first, last) = (unsigned(row.get(2)?), unsigned(row.get(3)?));
        account.restore_range(key, first, last, row.get::<_, i64>(4)? == 1);
    }
    Ok(())
}
