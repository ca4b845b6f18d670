-- jobs: a row a prefetch job. spec is what it fetches and progress how far it is, both JSON; times are seconds since
-- 1970. job_failures: a row a cuboid that could not be fetched.
CREATE TABLE jobs (
  id BIGINT NOT NULL PRIMARY KEY,
  spec MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL,
  state VARCHAR(16) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  reason VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
  progress TEXT CHARACTER SET utf8mb4 NOT NULL,
  created BIGINT NOT NULL,
  changed BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE job_failures (
  job BIGINT NOT NULL,
  cuboid VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  reason VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
  failed BIGINT NOT NULL,
  PRIMARY KEY (job, cuboid)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
