"""The formats in which voxels are served: documents, names and bodies, without any I/O.

==============  ====================================================================================================
`chunk_file`    a chunk as it is kept: its body, and what has to be known of it
`location`      what a path below a format means
`precomputed`   neuroglancer's precomputed volumes
`ome`           the metadata of OME-Zarr
`zarr`          Zarr 2 with OME-Zarr 0.4, and Zarr 3 with OME-Zarr 0.5
`n5`            N5, with the metadata of its multi-resolution viewers
==============  ====================================================================================================
"""
