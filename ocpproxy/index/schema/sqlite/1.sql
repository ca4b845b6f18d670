-- What ours adds; the columns and their meaning are explained in ../mysql/1.sql. Times are text, which sorts.
ALTER TABLE contents ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX contents_reftime ON contents (reftime, bytes);
ALTER TABLE datasets ADD COLUMN info TEXT;
ALTER TABLE datasets ADD COLUMN origin VARCHAR(255);
ALTER TABLE datasets ADD COLUMN read_at INTEGER;
ALTER TABLE fetching ADD COLUMN owner VARCHAR(96) NOT NULL DEFAULT '';
ALTER TABLE fetching ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
ALTER TABLE metadata ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
