"""Tiles on disk and their rows in the index, as one promise.

==============  ============================================================
`tile_store`    reads, writes and evicts tiles
`files`         tiles as files: whole or not there
`page_cache`    files that can be read without waiting for the disk
`keys`          path and key of a tile, both ways
`journal`       the tiles that a crash may leave without a row or a file
`rows`          rows and totals, as interactions
`fsck`          finds and mends differences between disk and index
==============  ============================================================
"""
