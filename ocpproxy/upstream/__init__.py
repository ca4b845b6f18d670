"""Where voxels come from.

===============  =============================================================================
`base`           the `Upstream` protocol and its failures
`registry`       the kinds of upstream
`http`           bounded HTTP GETs, with retries and a cap per host
`locations`      the address of each channel
`chunks`         boxes of voxels put together from chunks
`renumbered`     an upstream with other slice and level numbers
one module       `ocp`, `precomputed`, `boss`, `dvid`, `catmaid`, `demo`, `tensorstore`
for each kind
`documents`      metadata documents of volumes, checked
`codecs`         encodings of voxels
===============  =============================================================================
"""
