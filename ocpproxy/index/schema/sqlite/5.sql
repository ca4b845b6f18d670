-- Pins; the columns and their meaning are explained in ../mysql/5.sql.
CREATE TABLE pins (
  id INTEGER NOT NULL PRIMARY KEY,
  part TEXT NOT NULL,
  tiles INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  created INTEGER NOT NULL
);
