-- Prefetch jobs; the columns and their meaning are explained in ../mysql/3.sql.
CREATE TABLE jobs (
  id INTEGER NOT NULL PRIMARY KEY,
  spec TEXT NOT NULL,
  state VARCHAR(16) NOT NULL,
  reason VARCHAR(255) NOT NULL,
  progress TEXT NOT NULL,
  created INTEGER NOT NULL,
  changed INTEGER NOT NULL
);
CREATE TABLE job_failures (
  job INTEGER NOT NULL,
  cuboid VARCHAR(255) NOT NULL,
  reason VARCHAR(255) NOT NULL,
  failed INTEGER NOT NULL,
  PRIMARY KEY (job, cuboid)
);
