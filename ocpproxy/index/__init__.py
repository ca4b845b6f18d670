"""The index database: MySQL or SQLite through adbapi.

===============  ======================================================================
`database`       interactions that nobody waits for without bound
`dialect`        what differs between MySQL and SQLite
`schema`         the tables, by numbered steps
`leases`         one process at a time (table ``fetching``)
`descriptions`   descriptions of datasets, kept from one start to the next (``datasets``)
===============  ======================================================================
"""
