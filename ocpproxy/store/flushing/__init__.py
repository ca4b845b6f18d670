"""Tiles that are not there any more, from one moment on: for all processes on a cache directory.

===========  ============================================================
`flush`      which tiles a flush covers, and their files
`files`      the directory in which flushes are kept
`flushes`    the flushes of a cache directory, which all processes know
`cleaning`   removes the files that flushes cover
===========  ============================================================
"""
