-- What is missing between the records that are there, as ranges; the same text in SQLite and PostgreSQL.
-- A range is a question and not yet a loss: `absent` may cover it, and the device names what it dropped itself in an event
-- record ("what":"records-gone") with first_seq and last_seq.
SELECT device, epoch, seq + 1 AS first, following - 1 AS last
FROM (SELECT device, epoch, seq, LEAD(seq) OVER (PARTITION BY device, epoch ORDER BY seq) AS following FROM records) AS pairs
WHERE following > seq + 1
ORDER BY device, epoch, seq;
