"""N5, Zarr and sharded precomputed volumes, read by TensorStore in processes of its own.

============  ====================================================================
`volumes`     the upstream: which part of which array a cutout is
`sharded`     the same for scales of precomputed volumes that are in shards
`reader`      the gateway's reader: starts a process, sends it requests, ends it
`relay`       the web server through which the process reads, by the gateway's own clients
`connection`  one process as the gateway sees it: requests, responses, frames
`process`     the program of that process, which imports TensorStore
`decoding`    in that process: arrays whose codecs TensorStore lacks, by numcodecs
============  ====================================================================
"""
