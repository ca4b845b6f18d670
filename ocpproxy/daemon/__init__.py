"""The only package that builds things and sees the real reactor.

============  =====================================================================
`tap`         what twistd finds: options and `makeService`
`gateway`     one whole gateway, and the order in which its services start and stop
`serving`     its HTTP server
`storage`     the half of a gateway that ``ocpproxy fsck`` needs too
`upstreams`   the half that ``ocpproxy describe`` needs too
`describing`  what the gateway makes of a dataset, document by document
`services`    services that only start and stop something
`workers`     several processes on the same sockets: the parent
`worker`      one of these processes
`link`        what a worker and its parent send each other
`scraping`    the metrics of several processes as one text
`admin`       the admin endpoint's socket and server
`reloading`   other upstreams and datasets while it runs
`log_output`  where the log goes, as text or JSON
============  =====================================================================
"""
