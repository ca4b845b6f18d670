"""Prefetch jobs: parts of volumes that are brought into the cache before anybody asks.

`spec`      what a job is to fetch, as JSON
`plan`      its cuboids by arithmetic, and an estimate
`run`       the run of one job
`service`   all jobs of an index
"""
