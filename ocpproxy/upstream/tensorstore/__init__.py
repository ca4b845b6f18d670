"""N5, Zarr and sharded precomputed volumes, read by TensorStore in processes of its own.

============  ====================================================================
`volumes`     the upstream: which part of which array a cutout is
`sharded`     the same for scales of precomputed volumes that are in shards
`reader`      the gateway's reader: starts a process, sends it requests, ends it
`connection`  one process as the gateway sees it: requests, responses, frames
`process`     the program of that process, which imports TensorStore
============  ====================================================================
"""
