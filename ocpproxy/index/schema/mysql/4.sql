-- accounts: a row for each highkey of contents: its tiles, their bytes, and when one was used last, in seconds since
-- 1970. They change in the same transactions, so that usage is known without counting rows.
CREATE TABLE accounts (
  highkey BIGINT NOT NULL PRIMARY KEY,
  tiles BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  used BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
DELETE FROM accounts;
INSERT INTO accounts (highkey, tiles, bytes, used)
  SELECT highkey, COUNT(*), SUM(bytes), COALESCE(CAST(UNIX_TIMESTAMP(MAX(CASE WHEN reftime < '2038-01-18' THEN reftime END)) AS SIGNED), 0)
  FROM contents GROUP BY highkey;
