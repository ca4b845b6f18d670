"""Tile addresses: what a viewer's URL says, both ways.

One grammar reads and writes. An address is an *image base*, which says what is looked at, and a *tail*, which says
which tile of it. Each is one line of a table: a template whose fields have one pattern each; `parse` tries the lines in
order, `spellings` uses all that can say an address, so ``parse(write(address)) == address`` for every one there is.

An address is only words: it knows no dataset. Whether its token, channel or plane exists, and whether the tile lies
inside the volume, is for `ocpproxy.model.stack` and a dataset's description to say.

=========================================== ==================================================================
image base                                  since
=========================================== ==================================================================
``token/``                                  D1, 2013-10
``token/channels/``                         D2, 2013-12: the place in the list is the colour
``token/plane/[channels/]``                 D3, 2014-11
``token/channel/plane/``                    D6, 2015-06
``mcfc/token/name[:C],.../plane/``          D6, 2015-06: each item may name its colour
=========================================== ==================================================================

=========================================== ==================================================================
tail                                        of
=========================================== ==================================================================
``[time/]slice/row_col_level.png``          Open Connectome; CATMAID's tile source types 1 and 9
``?z=&row=&col=&scale=`` or ``&x=&y=``      CATMAID type 2, as its front end and as pymaid say it
``[time/]slice/level/row_col.png``          CATMAID type 4
``level/[time/]slice/row/col.png``          CATMAID type 5
``largeDataTileSource/512/512/...``         CATMAID type 7: the tail of type 5 behind it
``plane/level/...``                         CATMAID type 8 (DVID): the three numbers in the order x, y, z
``s{level}/0_1_2/512_512/x_y_slice.png``    CATMAID type 10 (H2N5)
``plane/512/level/...``                     CATMAID type 12 (Boss): CATMAID's own order of the numbers
``slice/small.png``, ``small/slice.png``    the overview of types 1, 4, 9, and of 5 and 7
=========================================== ==================================================================

Types 8 and 12 name a plane themselves, and then that counts, whatever the image base says. For its ZY stacks CATMAID
asks both for ``yz``; what type 8 gives it transposes, so there it means rows z, columns y; what type 12 gives it shows
as it is, so there it means CATMAID's own ``zy``.

``viking/token/volume/channel/level/X{col}_Y{row}_Z{slice}.png`` (2015-10) is an address of its own.

All may stand behind ``[ocpcatmaid|ocptilecache|ndtilecache|h2n5/][tilecache/]``. A token that is itself called like
one of those prefixes is reached behind the full prefix only, and `write` puts it there.

============ =========================================================================================
`words`      image bases, tiles, overviews
`forms`      the grammar of paths
`query`      what queries say: type 2, and the contrast and colour of type 9
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
from ocpproxy.model.address.paths import MAX_PATH, parse, spellings, strip_prefix, write, write_base
from ocpproxy.model.address.query import Adjustment, tone

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
    "parse",
    "spellings",
    "strip_prefix",
    "tone",
    "write",
    "write_base",
]
