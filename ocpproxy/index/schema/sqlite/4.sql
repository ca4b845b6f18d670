-- The accounts of contents; the columns and their meaning are explained in ../mysql/4.sql.
CREATE TABLE accounts (
  highkey INTEGER NOT NULL PRIMARY KEY,
  tiles INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  used INTEGER NOT NULL
);
DELETE FROM accounts;
INSERT INTO accounts (highkey, tiles, bytes, used)
  SELECT highkey, COUNT(*), SUM(bytes), COALESCE(CAST(strftime('%s', MAX(CASE WHEN reftime < '2038-01-18' THEN reftime END)) AS INTEGER), 0)
  FROM contents GROUP BY highkey;
