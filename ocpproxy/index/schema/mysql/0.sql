-- The tables of the historical tile cache (ocptilecache, 2013-16), as its README had them made.
CREATE TABLE contents (
  highkey BIGINT,
  lowkey BIGINT,
  filename VARCHAR(255),
  reftime TIMESTAMP,
  PRIMARY KEY (highkey, lowkey)
);
CREATE TABLE datasets (
  dataset VARCHAR(255) PRIMARY KEY,
  datasetid INT UNIQUE AUTO_INCREMENT,
  ximagesz INT,
  yimagesz INT,
  zoffset INT,
  zmaxslice INT,
  zscale FLOAT
);
CREATE TABLE metadata (numtiles BIGINT);
CREATE TABLE fetching (url VARCHAR(255) PRIMARY KEY);
