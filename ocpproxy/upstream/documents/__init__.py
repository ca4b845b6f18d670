"""Metadata documents of volumes, parsed and checked: nothing in them is trusted.

==================  ==================================================================
`checks`            typed, bounded access to the values of a JSON document
`ocp_info`          the info document of Open Connectome, three generations
`precomputed_info`  the info document of neuroglancer's precomputed volumes
`multiscale`        documents of N5 and Zarr: which there are, the volume they describe
`n5`                N5 arrays and groups
`zarr`              arrays of Zarr 2 and 3
`ome`               OME-Zarr groups, 0.4 and 0.5
`arrays`            what N5 and Zarr have in common: scales that are arrays
`pyramids`          scales become levels, volumes become channels of a dataset
==================  ==================================================================
"""
