"""Parts of volumes that are brought into the cache before anybody asks, or out of it.

==========  ============================================
`spec`      what a job is to fetch, as JSON
`plan`      its cuboids by arithmetic, and an estimate
`progress`  how far a job is
`run`       the run of one job
`runner`    the jobs that a process runs
`service`   what people do with jobs
`flushing`  flushes as people ask for them
`pinning`   pins as people ask for them
`space`     who uses the space of the cache
==========  ============================================
"""
