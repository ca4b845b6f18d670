"""Voxels to pixels to PNG. No I/O.

==========  ========================================================================
`drawing`   one slice of a cuboid becomes the picture of one tile
`pixels`    voxels to pixels: windows, types, false colour
`palette`   the colours of annotations
`png`       pixels to the PNG of a tile, fast
`pictures`  which encoded pictures can be tiles: PNG of ours, PNG and JPEG of others
`contrast`  a grey tile with other contrast and colour
`overview`  a whole slice as one small picture
`upscaled`  a tile made of a coarser one
==========  ========================================================================
"""
