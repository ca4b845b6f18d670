"""An Open Connectome server that costs next to nothing: every cutout of one shape is the same ready-made body.

    python benchmarks/origin.py PORT [npz|blosc] [delay in seconds]

The volume (token ``kat``) has 20,480 x 20,480 x 4,096 voxels in one level, cubes of 512 x 512 x 16, and shows the
demo's tissue over and over; for tokens that do not begin with ``kat`` the server takes a minute. ``/asked`` tells how
many cutouts have been asked for; any ``.png`` is a tile.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import zlib
from contextlib import suppress
from functools import cache
from io import BytesIO

import blosc
import numpy as np

from ocpproxy.imagery import png
from ocpproxy.model.dataset import Box
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


@cache
def tile() -> bytes:
    """A ready-made tile, for caches of tiles."""
    return png.grey(tissue(Box(0, 512, 0, 512, 0, 1), 0)[0])


class Origin:
    """One server, on plain sockets: asyncio's streams would copy each body a dozen times."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.asked = 0

    async def answer(self, path: str) -> bytes:
        """The body for a path."""
        segments = path.strip("/").split("/")
        if segments[-1] == "info" and not segments[-2].startswith("kat"):
            await asyncio.sleep(60)  # whoever asks for what is not there waits
        if segments[-1] == "info":
            return json.dumps(INFO).encode()
        if path.endswith(".png"):
            await asyncio.sleep(self.delay)
            return tile()
        if len(segments) < 8:
            return str(self.asked).encode()
        self.asked += 1
        x, y, z = ((b - a) for a, b in (map(int, part.split(",")) for part in segments[-3:]))
        await asyncio.sleep(self.delay)
        return cutout(segments[-5], x, y, z)

    async def serve(self, client: socket.socket) -> None:
        """One connection."""
        loop = asyncio.get_running_loop()
        with client, suppress(ConnectionError):
            while head := await loop.sock_recv(client, 2**16):
                body = await self.answer(head.split(b" ", 2)[1].decode())
                said = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: %d\r\n\r\n" % len(body)
                await loop.sock_sendall(client, said)
                await loop.sock_sendall(client, body)


async def main() -> None:
    """Serve."""
    port, form, delay = int(sys.argv[1]), (*sys.argv[2:], "npz")[0], float((*sys.argv[3:], "0")[0])
    cutout(form, 512, 512, 16)
    tile()
    origin, open_ = Origin(delay), set()
    with socket.create_server(("127.0.0.1", port), backlog=256) as listening:
        listening.setblocking(False)
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listening)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serving = asyncio.create_task(origin.serve(client))
            open_.add(serving)
            serving.add_done_callback(open_.discard)


if __name__ == "__main__":
    asyncio.run(main())
