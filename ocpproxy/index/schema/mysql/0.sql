-- The tables of the historical tile cache (ocptilecache, 2013-16), as its README had them made, with what strict servers
-- ask for: a primary key in every table, and a row format whose keys may be longer than 767 bytes.
CREATE TABLE contents (
  highkey BIGINT,
  lowkey BIGINT,
  filename VARCHAR(255),
  reftime TIMESTAMP,
  PRIMARY KEY (highkey, lowkey)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE datasets (
  dataset VARCHAR(255) PRIMARY KEY,
  datasetid INT UNIQUE AUTO_INCREMENT,
  ximagesz INT,
  yimagesz INT,
  zoffset INT,
  zmaxslice INT,
  zscale FLOAT
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE metadata (
  numtiles BIGINT,
  id TINYINT NOT NULL DEFAULT 1 PRIMARY KEY
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE fetching (
  url VARCHAR(255) PRIMARY KEY
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
