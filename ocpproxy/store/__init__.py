"""Tiles on disk and their rows in the index, as one promise.

==============  ==============================================================
`tile_store`    reads, stores and evicts tiles
`files`         tiles as files: whole or not there
`page_cache`    files that can be read without waiting for the disk
`keys`          path and key of a tile, both ways
`changes`       files that are being changed: from the journal to pending rows
`journal`       the tiles that a crash may leave without a row or a file
`rows`          rows and totals, as interactions
`pending`       tiles whose rows have to be reconciled with their files
`uses`          when tiles were used last
`part`          a part of what is stored of one token
`provenance`    where a tile comes from, as its file records it
`space`         how much tiles take and may take, and which have to go
`flushing`      tiles that are not there any more, from one moment on
`fsck`          finds and mends what disk and index do not agree on
`contents`      what a tile's or a chunk's file has to look like
==============  ==============================================================
"""
