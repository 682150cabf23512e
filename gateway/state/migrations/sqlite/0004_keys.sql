-- Virtual keys, by the digest of their text. `content` is the whole key as JSON; what is searched for has columns beside it.
-- Deleted ones stay: whoever presents one is to be refused, and its rows keep a name.
CREATE TABLE virtual_key (
  digest TEXT PRIMARY KEY,
  version INTEGER NOT NULL,
  alias TEXT,
  created_at REAL NOT NULL,
  deleted_at REAL,
  content BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX virtual_key_alias ON virtual_key (alias) WHERE alias IS NOT NULL AND deleted_at IS NULL;
