"""Values and rules: datasets, stacks, addresses. No Twisted, no I/O, no clock.

==========  ==========================================================================
`dataset`   levels, channels and boxes of voxels
`stack`     planes, tiles and cuboids: how a dataset becomes tiles
`address`   tile URLs, read and written
==========  ==========================================================================
"""
