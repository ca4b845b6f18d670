"""Decoders of the voxels that upstreams send: pure functions, bounded in memory, safe with hostile bodies.

===================  =====================================================
`content_encoding`   ``Content-Encoding``: gzip, deflate, brotli
`npz`                zlib of a ``.npy``: Open Connectome, Boss
`blosc_array`        a pickled array in a blosc container: Open Connectome
`pickled`            the array of a pickle, without unpickling
`blosc_container`    blosc containers: Boss, and those of `blosc_array`
`images`             JPEG and PNG
`segmentation`       neuroglancer's compressed segmentation
`precomputed_chunk`  the chunks of neuroglancer's precomputed volumes
===================  =====================================================

Each decoder takes the size, type and shape that were requested, and raises `UpstreamBroken` for anything else.
"""
