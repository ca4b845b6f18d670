"""How voxels are written in the bodies of answers: one file for each form, all of them pure, bounded and suspicious.

==============  ==============================================================================
`npz`           zlib of a ``.npy``: Open Connectome, Boss
`packed`        a pickle of an array in a blosc container: Open Connectome
`pickled`       that pickle, read without running it
`containers`    blosc containers
`images`        JPEG and PNG
`segmented`     neuroglancer's compressed segmentation
`stored`        content encodings
==============  ==============================================================================
"""
