-- What is left of rows that were deleted: sums of a minute and a kind. A row is taken out of `entry` and added here in one
-- transaction, and the sums of days stay as they are; so no total changes when rows go. A minute in which the spend of a key
-- was set back is two parts: `starts` is where a part begins (unix seconds). Of end users, tags and clients nothing is kept.
CREATE TABLE penstock.pruned (
  starts      double precision NOT NULL,
  kind        bigint NOT NULL REFERENCES penstock.kind (id),
  requests    bigint NOT NULL,
  unpriced    bigint NOT NULL,
  prompt      bigint NOT NULL,
  completion  bigint NOT NULL,
  cost        bigint NOT NULL,
  cache_read  bigint NOT NULL,
  cache_write bigint NOT NULL,
  total_us    bigint NOT NULL,
  PRIMARY KEY (starts, kind)
);

CREATE INDEX pruned_kind ON penstock.pruned (kind, starts);
