-- Databases of version 0.2 and earlier: a primary key in every table, and no time that is none.
ALTER TABLE metadata ADD COLUMN id TINYINT NOT NULL DEFAULT 1, ADD PRIMARY KEY (id);
UPDATE contents SET reftime = '1970-01-02 00:00:00' WHERE reftime = 0;
