"""Values and rules: datasets, stacks, addresses. No Twisted, no I/O, no clock.

===========  =========================================================================
`voxels`     the types of voxels
`dataset`    levels, channels and boxes of voxels
`address`    tile URLs, read and written
`display`    how a dataset is shown: what its operator has set, how a channel is drawn
`stack`      planes, tiles and cuboids: how a dataset becomes tiles
`chunks`     volumes and chunks: how a channel becomes blocks of voxels
`broken`     slices that are broken, and what is shown instead
`region`     parts of a volume, and the cuboids that they touch
`skeletons`  neurons as files have them
===========  =========================================================================
"""
