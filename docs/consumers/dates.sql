-- When records were made whose time is NULL, because the clock of the device was not believed yet: boot and mono_ms say how
-- long before a later record of the same boot that has a time (SQLite; the tables of sqlite.sql).
WITH dated AS (
  SELECT device, boot, MIN(seq) AS seq FROM records WHERE time IS NOT NULL AND synced GROUP BY device, boot)
SELECT undated.device, undated.epoch, undated.seq,
       strftime('%Y-%m-%dT%H:%M:%fZ', julianday(anchor.time) - (anchor.mono_ms - undated.mono_ms) / 86400000.0) AS time
FROM records AS undated
JOIN dated ON dated.device = undated.device AND dated.boot = undated.boot
JOIN records AS anchor ON anchor.device = dated.device AND anchor.boot = dated.boot AND anchor.seq = dated.seq
WHERE undated.time IS NULL
ORDER BY undated.device, undated.epoch, undated.seq;
