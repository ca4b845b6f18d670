"""Tiles on disk and their rows in the index, as one promise.

==============  =================================================================
`usage`         numbers of tiles and bytes
`tile_store`    reads, stores and evicts tiles
`capacity`      how much the cache may hold; space reserved for storing
`files`         tiles as files: whole or not there
`page_cache`    files that can be read without waiting for the disk
`keys`          path and key of a tile, both ways
`changes`       files that are being changed: from the journal to pending rows
`journal`       the tiles that a crash may leave without a row or a file
`rows`          rows and totals, as interactions
`accounts`      what each level of each stack takes, as interactions
`counts`        how much of a part is stored, as interactions
`evicting`      which tiles are evicted, as interactions
`pins`          what is never evicted, as interactions
`free_space`    what stays free on the disk
`pending`       tiles whose rows have to be reconciled with their files
`uses`          when tiles were used last
`part`          a part of what is stored of one token
`flush`         which tiles a flush covers, and their files
`flush_files`   the directory in which flushes are kept
`flushes`       the flushes of a cache directory, which all processes know
`cleaning`      removes the files that flushes cover
`fsck`          finds and mends what disk and index do not agree on
==============  =================================================================
"""
