"""Where voxels come from.

===============  ======================================================================
`base`           the `Upstream` protocol and its failures
`registry`       the kinds of upstream
`http`           bounded HTTP GETs, with retries and a cap per host
`plain_treq`     treq without cookies, encodings, conversion of addresses
`endpoints`      endpoints of hosts, made once for each
`fetch`          metadata documents by HTTP
`locations`      the address of each channel
`grid`           boxes of voxels and the chunks they touch; no I/O
`chunks`         boxes of voxels read from chunks
`renumbered`     an upstream with other slice and level numbers
`kind`           what a kind consists of: its options, its constructor
`body`           the body of a response, bounded
`breaker`        an upstream that fails is left alone for a while
`mirrors`        several homes of one volume
`files`          volumes in files of this machine
`trail`          what was asked for, and which home has answered
one module       `ocp`, `precomputed`, `boss`, `dvid`, `catmaid`, `demo`, `tensorstore`
for each kind
`documents`      metadata documents of volumes, checked
`codecs`         encodings of voxels
===============  ======================================================================
"""
