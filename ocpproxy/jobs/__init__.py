"""Prefetch jobs: parts of volumes that are brought into the cache before anybody asks.

`spec`      what a job is to fetch, as JSON
`plan`      its cuboids by arithmetic, and an estimate
`progress`  how far a job is
`run`       the run of one job
`runner`    the jobs that a process runs
`service`   what people do with jobs
"""
