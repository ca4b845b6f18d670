"""What a caching proxy does.

==================  =========================================================
`tiles`             a request for a tile: hit, or shared miss
`lookup`            tiles that are in memory or on disk
`memory`            which tiles stay in memory (S3-FIFO)
`fetches`           a miss: lease, slot, voxels, render, store
`rendering`         a cuboid's voxels become its tiles
`shared_cutouts`    voxels fetched once for all stacks that show them
`derived`           pictures made from tiles: contrast, colour, overviews
`catalogue`         what is known of each token
`eviction`          the least recently used tiles go
`entries`           what is known of one token
`questions`         how many tokens without a section are asked for at a time
`fetch_times`       how long fetches took
`course`            when each stage of a fetch began
`chunks`            chunks of voxels, made of a cuboid and read again
`colourings`        which false colours are stored
`tracks`            how viewers move
`lookahead`         what a viewer will want in a moment
`placeholders`      what stands for a tile while an upstream fails
`quotas`            what one dataset may take
==================  =========================================================
"""
