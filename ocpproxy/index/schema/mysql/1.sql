-- Names are compared byte by byte: tokens that differ in case are different tokens. Transactions need InnoDB, which
-- was not the default engine when the historical tables were made.
--
-- contents: one row a tile on disk. reftime, in UTC and to the microsecond, is its last use and the order of
-- reclaiming; the index holds bytes too, so that usage is summed without reading the rows.
ALTER TABLE contents ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
ALTER TABLE contents
  MODIFY filename VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
  MODIFY reftime TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6);
ALTER TABLE contents ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
CREATE INDEX contents_reftime ON contents (reftime, bytes);
-- datasets: a row a token (info is what its upstream said of it, origin is which upstream, read_at is when, in
-- seconds since 1970) and a row a stack (token/plane/channel/version), whose id is part of the tiles' keys.
ALTER TABLE datasets ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
ALTER TABLE datasets MODIFY dataset VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL;
ALTER TABLE datasets ADD COLUMN info MEDIUMTEXT CHARACTER SET utf8mb4;
ALTER TABLE datasets ADD COLUMN origin VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
ALTER TABLE datasets ADD COLUMN read_at BIGINT;
-- fetching: leases. Whoever's row it is holds the cuboid until expires (microseconds since 1970, by this server's
-- clock); an expired row belongs to whoever takes it.
ALTER TABLE fetching ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
ALTER TABLE fetching MODIFY url VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL;
ALTER TABLE fetching ADD COLUMN owner VARCHAR(96) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '';
ALTER TABLE fetching ADD COLUMN expires BIGINT NOT NULL DEFAULT 0;
-- metadata: one row. numtiles and bytes are the account of contents, kept in the same transactions.
ALTER TABLE metadata
  ADD COLUMN id TINYINT NOT NULL DEFAULT 1, ADD PRIMARY KEY (id), ENGINE = InnoDB, ROW_FORMAT = DYNAMIC;
ALTER TABLE metadata ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
