"""Metadata documents of volumes. Nothing in them is trusted.

==============  ============================================================
`checks`        typed, bounded access to the values of a document
`ocp_info`      the info document of Open Connectome, three generations
`multiscale`    N5, Zarr, OME-Zarr
`pyramids`      scales become levels, volumes become channels
==============  ============================================================
"""
