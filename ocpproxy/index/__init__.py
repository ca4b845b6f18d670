"""The index database: MySQL or SQLite through adbapi.

===============  ========================================================================
`database`       interactions, with a limit on how long a caller waits
`dialect`        what differs between MySQL and SQLite
`schema`         the tables, by numbered steps
`leases`         one process at a time (table ``fetching``)
`descriptions`   descriptions of datasets, kept from one start to the next (``datasets``)
`backends`       MySQL and SQLite: connections and pools
`availability`   whether the database answers, and who waits for it
`probe`          looks at the database on a connection of its own
`jobs`           the rows of jobs
===============  ========================================================================
"""
