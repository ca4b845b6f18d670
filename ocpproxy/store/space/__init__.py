"""How much space tiles take, how much they may take, and which have to go.

============  ============================================================
`usage`       numbers of tiles and bytes
`accounts`    what each level of each stack takes, as interactions
`counts`      how much of a part is stored, as interactions
`capacity`    how much the cache may hold; space reserved for storing
`free_space`  what stays free on the disk
`full_disk`   what is done when the disk is full, though the cache is not
`evicting`    which tiles are evicted, as interactions
`pins`        what is never evicted, as interactions
============  ============================================================
"""
