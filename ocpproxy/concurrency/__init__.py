"""General Twisted tools that know nothing of tiles.

================  ===================================================
`single_flight`   one fetch at a time for all who want the same
`progress`        whether the answer to a request has begun to arrive
`gather`          coroutines side by side, all or nothing
`shield`          work that goes on when its caller stops waiting
`threads`         a thread pool with lanes
`work`            what is being done, and for whom
`fairness`        places that clients get in turn
`context`         values that follow coroutines
`generation`      numbers of flushes that voxels belong to
`pieces`          long work in pieces
================  ===================================================
"""
