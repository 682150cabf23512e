-- Named credentials (gateway.state.credentials). `content` is the whole row; the values in it are sealed.
CREATE TABLE penstock.credential (
  id      text COLLATE "C" PRIMARY KEY,
  version bigint NOT NULL,
  name    text COLLATE "C" NOT NULL UNIQUE,
  content jsonb NOT NULL
);
