-- What is left of rows that were deleted: sums of a minute and a kind. A row is taken out of `entry` and added here in one
-- transaction, and the sums of days stay as they are; so no total changes when rows go. A minute in which the spend of a key
-- was set back is two parts: `starts` is where a part begins (unix seconds). Of end users, tags and clients nothing is kept.
CREATE TABLE pruned (
  starts      REAL NOT NULL,
  kind        INTEGER NOT NULL REFERENCES kind (id),
  requests    INTEGER NOT NULL,
  unpriced    INTEGER NOT NULL,
  prompt      INTEGER NOT NULL,
  completion  INTEGER NOT NULL,
  cost        INTEGER NOT NULL,
  cache_read  INTEGER NOT NULL,
  cache_write INTEGER NOT NULL,
  total_us    INTEGER NOT NULL,
  PRIMARY KEY (starts, kind)
) STRICT, WITHOUT ROWID;

CREATE INDEX pruned_kind ON pruned (kind, starts);
