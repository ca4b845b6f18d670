"""N5, Zarr and sharded precomputed volumes, read by TensorStore in processes of its own.

================  ================================================================
`volumes`         the upstream: which part of which array a cutout is
`sharded`         the same for scales of precomputed volumes that are in shards
`reader`          the gateway's reader: which array to read where, and how
`relay`           the web server through which it reads, by the gateway's clients
`shared_process`  starts a process, sends it requests, ends it
`connection`      one process as the gateway sees it: requests, responses, frames
`process`         the program of that process, which imports TensorStore
`decoding`        in that process: codecs that TensorStore lacks, by numcodecs
================  ================================================================
"""
