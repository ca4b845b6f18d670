"""Metadata documents of volumes, parsed and checked: nothing in them is trusted.

==================  ==================================================================
`checks`            typed, bounded access to the values of a JSON document
`ocp_info`          the info document of Open Connectome, three generations
`boss_experiment`   the documents of a BossDB experiment
`precomputed_info`  the info document of neuroglancer's precomputed volumes
`multiscale`        which documents a volume has, and the volume that they describe
`n5`                N5 arrays and groups
`zarr`              arrays of Zarr 2 and 3
`ome`               OME-Zarr images, 0.4 and 0.5
`collections`       collections of OME-Zarr images
`encodings`         codecs: which can be read, and what their reader has to know
`units`             units of length
`arrays`            what N5 and Zarr have in common: scales that are arrays
`pyramids`          scales become levels, volumes become channels of a dataset
`channels`          the description of a dataset whose channels have addresses of their own
==================  ==================================================================
"""
