"""General Twisted tools that know nothing of tiles.

================  =====================================================================
`single_flight`   one fetch at a time for all who want the same
`gather`          coroutines side by side, all or nothing
`threads`         a thread pool with lanes
================  =====================================================================
"""
