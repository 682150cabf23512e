-- Named credentials (gateway.state.credentials). `content` is the whole row as JSON; the values in it are sealed.
CREATE TABLE credential (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL,
  name TEXT NOT NULL UNIQUE,
  content BLOB NOT NULL
) STRICT, WITHOUT ROWID;
