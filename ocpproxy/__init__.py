"""ocpproxy: a caching gateway for connectomics volumes.

Viewers (CATMAID first) ask for 512 x 512 tiles. Volumes live far away behind slow services that hand out cuboids.
ocpproxy turns one cuboid into 16 and more tiles, keeps them on disk, answers from there, and evicts the least recently
used. The cuboid is the unit of fetching and locking, the tile is the unit of serving and evicting.

The packages, from the bottom to the top. Each imports from those above it in this list and from no other
(``tests/test_layers.py`` reads the imports)::

  model        values and rules: datasets, stacks, chunks, tile addresses
  imagery      voxels to pixels to PNG
  formats      the formats in which voxels are served to other readers
  config       ocp.ini to frozen settings
  concurrency  general Twisted tools: one fetch at a time, threads
  metrics      the counters, named once (a single module)
  index        the database: adbapi, schema, leases, dataset descriptions
  store        tiles on disk and their rows in the index
  upstream     where voxels come from
  cache        what a caching proxy does: a hit, a shared miss, eviction
  web          HTTP in
  daemon       builds everything and runs it: what twistd finds
  cli          the ``ocpproxy`` command
"""

from ocpproxy._version import __version__

__all__ = ["__version__"]
