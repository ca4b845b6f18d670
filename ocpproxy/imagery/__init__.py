"""Voxels to pixels to PNG.

==========  ==========================================================================================
`drawing`   one slice of a cuboid becomes the picture of one tile
`pixels`    voxels to pixels: windows, types, false colour
`palette`   the colours of annotations
`png`       pixels to the PNG of a tile, fast
`pictures`  what may be kept and served as a tile: PNG of ours, PNG and JPEG of others
`retouch`   pictures made of tiles: other contrast and colour, overviews
==========  ==========================================================================================
"""
