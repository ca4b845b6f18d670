-- pins: a row a part that is never evicted: which tiles (JSON), how many they are, their bytes, and when it was pinned, in
-- seconds since 1970. The rows of its tiles in contents get the latest reftime there is when their turn comes.
CREATE TABLE pins (
  id BIGINT NOT NULL PRIMARY KEY,
  part MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL,
  tiles BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  created BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
