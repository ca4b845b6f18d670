"""ocpproxy: a caching tile gateway for connectomics volumes.

Viewers (CATMAID first) ask for 512 x 512 tiles. Volumes live far away behind slow services that hand out cuboids.
ocpproxy turns one cuboid into 16 and more tiles, keeps them on disk, answers from there, and forgets the least recently
used. The cuboid is the unit of fetching and locking, the tile is the unit of serving and forgetting.

Rooms, each importing only from below (``tests/test_layers.py`` reads the imports)::

  5  wiring   service       Options, makeService: what twistd finds
              gateway       the parts list of one process
              sources       which upstream each token has; the registry of upstreams
              running       services that only start and stop something
              workers       several processes on one socket
              cli           the ``ocpproxy`` command
  4  face     web/          the hot path; the resource tree; the one table from failures to HTTP answers
  3  deeds    cache         a request's story: hit, or shared miss
              hits          tiles that are here
              memory        which of them stay in memory
              filling       voxels become tiles, the awaited first
              cutouts       voxels, fetched once among all stacks that show them
              retouching    what is made of tiles on their way out
              catalogue     what is known of each token
              reclaim       the least recently used goes
  2  doors    upstream/     where voxels come from; upstream/codecs/ how they are written there
              onefetch      one fetch at a time among those who wait
              store/        tiles on disk and their account in the index, as one promise
              leases        one process at a time
              descriptions  what upstreams said of their tokens, from one start to the next
              database      adbapi as a service nobody waits for without bound; schema/ its tables
              dialect       what differs between MySQL and SQLite
              pool          threads for one kind of work, with lanes
  1  words    address/      tile addresses and the URL forms, both ways
              geometry      datasets, levels, channels: what is where
              stack         planes, tiles, cuboids: how it is shown
              imagery/      voxels to pixels to PNG
              config/       ocp.ini to frozen settings
              metrics       the counters, named once
"""

__version__ = "0.1.0"
