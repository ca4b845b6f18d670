"""N5, Zarr and sharded precomputed volumes, read by TensorStore in processes of its own."""
