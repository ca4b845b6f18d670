-- The tables of the historical tile cache (ocptilecache, 2013-16) in SQLite's words.
CREATE TABLE contents (
  highkey INTEGER,
  lowkey INTEGER,
  filename VARCHAR(255),
  reftime TIMESTAMP,
  PRIMARY KEY (highkey, lowkey)
) WITHOUT ROWID;
CREATE TABLE datasets (
  dataset VARCHAR(255) UNIQUE,
  datasetid INTEGER PRIMARY KEY AUTOINCREMENT,
  ximagesz INT,
  yimagesz INT,
  zoffset INT,
  zmaxslice INT,
  zscale FLOAT
);
CREATE TABLE metadata (numtiles BIGINT);
CREATE TABLE fetching (url VARCHAR(255) PRIMARY KEY);
