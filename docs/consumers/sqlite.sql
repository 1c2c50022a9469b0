-- What `quorate collect --output FILE.sqlite` writes, and what a consumer of its own may start from (SQLite 3.24 or newer).

-- One row for each record. The key drops repeats: delivery over MQTT is at least once.
CREATE TABLE IF NOT EXISTS records (
  device  TEXT    NOT NULL,
  epoch   INTEGER NOT NULL,
  seq     INTEGER NOT NULL,
  kind    TEXT    NOT NULL,           -- vote, inference, event or external
  time    TEXT,                       -- UTC, RFC 3339; NULL while the clock of the device was unknown
  synced  INTEGER,                    -- 1 when that clock was synchronised
  boot    TEXT,                       -- the boot that mono_ms counts from
  mono_ms INTEGER,
  body    TEXT    NOT NULL,           -- JSON
  PRIMARY KEY (device, epoch, seq)
) WITHOUT ROWID;

-- Where the account of a stream begins: its device had no older record to send when we first heard of it.
CREATE TABLE IF NOT EXISTS streams (
  device TEXT    NOT NULL,
  epoch  INTEGER NOT NULL,
  base   INTEGER NOT NULL,
  PRIMARY KEY (device, epoch)
) WITHOUT ROWID;

-- Numbers that the device itself says hold no record: batches name what they follow ("after").
CREATE TABLE IF NOT EXISTS absent (
  device TEXT    NOT NULL,
  epoch  INTEGER NOT NULL,
  first  INTEGER NOT NULL,
  last   INTEGER NOT NULL,
  PRIMARY KEY (device, epoch, first, last)
) WITHOUT ROWID;

-- A number that came with two different records; only a fault of the device makes one. `records` keeps the first.
CREATE TABLE IF NOT EXISTS conflicts (
  device TEXT    NOT NULL,
  epoch  INTEGER NOT NULL,
  seq    INTEGER NOT NULL,
  record TEXT    NOT NULL,
  PRIMARY KEY (device, epoch, seq)
) WITHOUT ROWID;
