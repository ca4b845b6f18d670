"""An Open Connectome server that costs next to nothing: every cutout of one shape is the same ready-made body.

    python benchmarks/origin.py PORT [npz|blosc] [delay in seconds]

The volume (token ``kat``) has 20,480 x 20,480 x 4,096 voxels in one level, cubes of 512 x 512 x 16, and shows the
demo's tissue over and over. ``/asked`` tells how many cutouts have been asked for.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from functools import cache
from io import BytesIO

import blosc
import numpy as np

from ocpproxy.geometry import Box
from ocpproxy.upstream.demo import tissue

SIZE = (20480, 20480, 4096)
INFO = {
    "channels": {
        "image": {
            "channel_type": "image",
            "datatype": "uint8",
            "resolution": 0,
            "windowrange": [0, 0],
            "readonly": 1,
            "propagate": 2,
            "exceptions": 0,
        }
    },
    "dataset": {
        "resolutions": [0],
        "imagesize": {"0": SIZE},
        "offset": {"0": [0, 0, 0]},
        "voxelres": {"0": [1.0, 1.0, 10.0]},
        "cube_dimension": {"0": [512, 512, 16]},
        "scaling": "zslices",
        "scalinglevels": 0,
        "timerange": [0, 0],
    },
    "project": {"name": "kat"},
    "metadata": {},
}


@cache
def cutout(form: str, x: int, y: int, z: int) -> bytes:
    """The body of a cutout of this many voxels."""
    voxels = np.ascontiguousarray(tissue(Box(0, 512, 0, 512, 0, 16), 0)[:z, :y, :x])[np.newaxis]
    if form == "blosc":
        return bytes(blosc.pack_array(voxels, clevel=0))
    out = BytesIO()
    np.save(out, voxels)
    return zlib.compress(out.getvalue())


class Origin:
    """One server."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.asked = 0

    async def answer(self, path: str) -> bytes:
        """The body for a path."""
        segments = path.strip("/").split("/")
        if segments[-1] == "info":
            return json.dumps(INFO).encode()
        if len(segments) < 8:
            return str(self.asked).encode()
        self.asked += 1
        x, y, z = ((b - a) for a, b in (map(int, part.split(",")) for part in segments[-3:]))
        await asyncio.sleep(self.delay)
        return cutout(segments[-5], x, y, z)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await self.answer(head.split(b" ", 2)[1].decode())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main() -> None:
    """Serve."""
    port, form, delay = int(sys.argv[1]), (*sys.argv[2:], "npz")[0], float((*sys.argv[3:], "0")[0])
    cutout(form, 512, 512, 16)
    origin = Origin(delay)
    server = await asyncio.start_server(origin.serve, "127.0.0.1", port, limit=2**20)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
