"""Tile addresses: viewers' URLs, read and written.

One grammar reads and writes. An address is an *image base*, which names a stack, and a *tail*, which names a tile of
it. Each is one line of a table: a template whose fields have one pattern each. `parse` tries the lines in order;
`all_paths` uses all lines that can express an address. So ``parse(write(address)) == address`` for every address.

An address knows no dataset. `ocpproxy.model.stack` finds out whether its channel exists, and whether the tile lies
inside the volume.

=========================================== ==================================================================
image base                                  since
=========================================== ==================================================================
``token/``                                  D1, 2013-10
``token/channels/``                         D2, 2013-12: the position in the list is the colour
``token/plane/[channels/]``                 D3, 2014-11
``token/channel/plane/``                    D6, 2015-06
``mcfc/token/name[:C],.../plane/``          D6, 2015-06: each item may name its colour
=========================================== ==================================================================

=========================================== ==================================================================
tail                                        of
=========================================== ==================================================================
``[time/]slice/row_col_level.png``          Open Connectome; CATMAID's tile source types 1 and 9
``?z=&row=&col=&scale=`` or ``&x=&y=``      CATMAID type 2, as its front end and as pymaid write it
``[time/]slice/level/row_col.png``          CATMAID type 4
``level/[time/]slice/row/col.png``          CATMAID type 5
``largeDataTileSource/512/512/...``         CATMAID type 7: the tail of type 5 behind it
``plane/level/...``                         CATMAID type 8 (DVID): the three numbers in the order x, y, z
``s{level}/0_1_2/512_512/x_y_slice.png``    CATMAID type 10 (H2N5)
``plane/512/level/...``                     CATMAID type 12 (Boss): CATMAID's own order of the numbers
``slice/small.png``, ``small/slice.png``    the overview of types 1, 4, 9, and of 5 and 7
=========================================== ==================================================================

Types 8 and 12 name a plane themselves, which wins over that of the image base. For its ZY stacks CATMAID asks both for
``yz``. It transposes what it gets of type 8, so there ``yz`` means columns y and rows z; it shows what it gets of type
12 as it is, so there it means CATMAID's own ``zy``.

``viking/token/volume/channel/level/X{col}_Y{row}_Z{slice}.png`` (2015-10) is an address of its own.

All may follow ``[ocpcatmaid|ocptilecache|ndtilecache|h2n5/][tilecache/]``. A token that has the name of one of those
prefixes is reached behind the full prefix only, and `write` puts it there.

============ =========================================================================================
`parts`      image bases, tiles, overviews
`paths`      the grammar of paths
`query`      query strings: type 2, and the contrast and colour of type 9
============ =========================================================================================
"""

from __future__ import annotations

from ocpproxy.model.address.parts import (
    COLOURS,
    MAX_CHANNELS,
    BadAddress,
    ChannelName,
    Colouring,
    ImageBase,
    OverviewAddress,
    TileAddress,
)
from ocpproxy.model.address.paths import MAX_PATH, all_paths, parse, strip_prefix, write, write_base
from ocpproxy.model.address.query import Adjustment, adjustment

__all__ = [
    "COLOURS",
    "MAX_CHANNELS",
    "MAX_PATH",
    "Adjustment",
    "BadAddress",
    "ChannelName",
    "Colouring",
    "ImageBase",
    "OverviewAddress",
    "TileAddress",
    "adjustment",
    "all_paths",
    "parse",
    "strip_prefix",
    "write",
    "write_base",
]
