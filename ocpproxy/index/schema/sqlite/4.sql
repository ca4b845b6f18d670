-- The accounts of contents; the columns and their meaning are explained in ../mysql/4.sql.
CREATE TABLE accounts (
  highkey INTEGER NOT NULL PRIMARY KEY,
  tiles INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  used INTEGER NOT NULL
);
REPLACE INTO accounts (highkey, tiles, bytes, used)
  SELECT highkey, COUNT(*), SUM(bytes), COALESCE(CAST(strftime('%s', MAX(reftime)) AS INTEGER), 0)
  FROM contents GROUP BY highkey;
