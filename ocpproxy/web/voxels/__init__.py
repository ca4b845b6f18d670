"""Voxels over HTTP: the formats of other readers, and Neuroglancer.

==================  ================================================================================================
`resource`          all datasets in one format
`served_volumes`    what a path below a token means
`voxel_answers`     chunks, documents, folders and failures as answers
`byte_ranges`       one range of bytes of an answer
`neuroglancer`      the viewer from the installed package, with a dataset open
==================  ================================================================================================
"""
