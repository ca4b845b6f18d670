"""Coverage-guided fuzzing of every decoder and every reader of documents, by atheris (``pip install atheris``).

    python -m benchmarks.fuzz [--seconds 60] [TARGET ...]

Each target runs in a process of its own. A finding is an exception that the target's callers do not expect, an input
that takes longer than 10 seconds, or more than 2 GiB of memory; then libFuzzer prints it, keeps the input in the
current directory, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import pickle
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

_LONGEST_INPUT = 1 << 16
_TIMEOUT, _MEMORY = 10, 2048


@dataclass(frozen=True)
class Target:
    """What is fuzzed."""

    run: Callable[[bytes], object]
    expected: tuple[type[Exception], ...]
    """What its callers expect it to raise."""
    seeds: Sequence[bytes]


def targets() -> dict[str, Target]:
    """Return all targets. The modules are imported here, so that atheris can watch them."""
    import numpy as np
    from PIL import Image
    from twisted.web.http_headers import Headers

    from ocpproxy.formats import chunk_file
    from ocpproxy.formats.location import ServedVolume
    from ocpproxy.imagery import pictures, png
    from ocpproxy.model import address
    from ocpproxy.model.chunks import ChunkedVolume
    from ocpproxy.model.dataset import Channel, Dataset, Level
    from ocpproxy.store import keys
    from ocpproxy.upstream.base import UpstreamBroken, UpstreamFailure
    from ocpproxy.upstream.codecs import (
        blosc_array,
        content_encoding,
        images,
        npz,
        pickled,
        precomputed_chunk,
        segmentation,
    )
    from ocpproxy.upstream.documents import multiscale, ocp_info, precomputed_info, pyramids
    from ocpproxy.upstream.documents.checks import Unexpected, parse_json
    from ocpproxy.web import target as targets_
    from ocpproxy.web.front import Front, Peer
    from ocpproxy.web.voxels import byte_ranges
    from ocpproxy.web.voxels.resource import FORMATS

    small = np.arange(512, dtype=np.uint8).reshape(8, 8, 8)
    tile = np.random.default_rng(1).integers(0, 9, (512, 512), np.uint8)

    def picture(format_: str, **options: Any) -> bytes:
        out = BytesIO()
        Image.fromarray(tile).save(out, format_, **options)
        return out.getvalue()

    def saved() -> bytes:
        out = BytesIO()
        np.save(out, small)
        return zlib.compress(out.getvalue())

    def volume(body: bytes) -> object:
        documents = dict(
            zip(
                (".zattrs", "0/.zarray", "zarr.json", "0/zarr.json", "attributes.json", "s0/attributes.json"),
                body.decode("utf-8", "replace").split("\0"),
                strict=False,
            )
        )
        found = multiscale.parse_volume(None, {name: text for name, text in documents.items() if text}, "here")
        return pyramids.build_dataset("t", {None: found})

    def front(body: bytes) -> object:
        lines = [line.replace(b"\0", b"") for line in body.split(b"\n")]
        names = (b"host", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
        headers = Headers({name: [line] for name, line in zip(names, lines, strict=False)})
        read = Front()
        read.client(Peer("-", True), headers)
        read.root_url(Peer("-", True), headers, secure=False)
        return targets_.read(lines[-1], b"HTTP/1.1", headers)

    array = {
        "shape": [20, 100, 100],
        "chunks": [16, 64, 64],
        "dtype": "|u1",
        "zarr_format": 2,
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "compressor": None,
    }
    multi = {
        "multiscales": [
            {
                "axes": [{"name": n, "type": "space"} for n in "zyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}],
            }
        ]
    }
    info = {
        "type": "image",
        "data_type": "uint8",
        "num_channels": 1,
        "scales": [
            {
                "key": "1",
                "size": [9, 9, 9],
                "resolution": [4, 4, 40],
                "voxel_offset": [0, 0, 0],
                "chunk_sizes": [[64, 64, 64]],
                "encoding": "raw",
            }
        ],
    }
    ocp = {
        "channels": {"image": {"channel_type": "image", "datatype": "uint8", "windowrange": [0, 0]}},
        "dataset": {
            "resolutions": [0],
            "imagesize": {"0": [9, 9, 9]},
            "offset": {"0": [0, 0, 1]},
            "voxelres": {"0": [1, 1, 1]},
            "cube_dimension": {"0": [128, 128, 16]},
        },
    }
    texts = [json.dumps(one).encode() for one in (array, multi, info, ocp)]
    failures = (UpstreamFailure, Unexpected)

    def precomputed(body: bytes) -> object:
        found = precomputed_info.parse_info(None, body.decode("utf-8", "replace"), "here")
        return pyramids.build_dataset("t", {None: found})

    def chunk(body: bytes) -> object:
        for encoding, dtype, shape in (
            ("jpeg", "uint8", (8, 512, 64)),
            ("png", "uint8", (512, 32, 16)),
            ("compressed_segmentation", "uint64", (16, 16, 16)),
            ("raw", "uint8", (8, 8, 8)),
        ):
            form = precomputed_chunk.ChunkForm(encoding, dtype)
            with contextlib.suppress(UpstreamBroken):
                precomputed_chunk.check(body, form, shape)
                precomputed_chunk.decode(body, form, shape)  # what passes the check can be decoded
        return None

    def kept_chunk(body: bytes) -> object:
        chunk_file.is_undamaged(body)
        found = chunk_file.unpack(body)
        return chunk_file.gunzip(found.body, 10_000) if found.gzipped else None

    level = Level((300, 200, 40), (-5, 3, 1), (128, 128, 16))
    channel = Channel("image", "image", "uint8", time=(0, 2))
    served = ServedVolume((ChunkedVolume.build(Dataset("t", {0: level}, (channel,)), channel),))

    def voxels(body: bytes) -> object:
        path = body.decode("latin-1").split("/")
        return [one.find(served, path) for one in FORMATS]

    return {
        "pickled": Target(pickled.parse, (pickled.NotAnArray,), [pickle.dumps(small, n) for n in range(6)]),
        "npz": Target(lambda body: npz.decode(body, "uint8", (8, 8, 8)), (UpstreamBroken,), [saved()]),
        "blosc": Target(lambda body: blosc_array.decode(body, "uint8", (8, 8, 8)), (UpstreamBroken,), []),
        "gzip": Target(
            lambda body: content_encoding.decode_content(body, "gzip", 10_000),
            (UpstreamBroken,),
            [gzip.compress(b"voxels" * 99)],
        ),
        "br": Target(lambda body: content_encoding.decode_content(body, "br", 10_000), (UpstreamBroken,), []),
        "images": Target(
            lambda body: images.decode(body, (512, 512), 512 * 512, 1),
            (UpstreamBroken,),
            [picture("PNG"), picture("JPEG"), picture("JPEG", progressive=True)],
        ),
        "pictures": Target(pictures.is_tile, (), [picture("PNG"), picture("JPEG"), png.grey(tile)]),
        "segmentation": Target(
            lambda body: segmentation.decode(body, "uint64", (16, 16, 16), (8, 8, 8)),
            (UpstreamBroken,),
            [bytes(4 * 200)],
        ),
        "json": Target(lambda body: parse_json(body.decode("utf-8", "replace")), failures, texts),
        "ocp": Target(lambda body: ocp_info.parse_info("t", body.decode("utf-8", "replace")), failures, texts[3:]),
        "precomputed": Target(precomputed, failures, texts[2:3]),
        "volumes": Target(volume, failures, [texts[1] + b"\0" + texts[0], b"\0\0" + texts[1] + b"\0" + texts[0]]),
        "addresses": Target(
            lambda body: address.parse(*body.decode("latin-1").partition("?")[::2]),
            (address.BadAddress,),
            [b"kat/image/xy/3/0_0_0.png", b"mcfc/kat/a:R,b/xy/1/0_0_0.png"],
        ),
        "fronts": Target(front, (targets_.RefusedRequest,), [b"h\nfor=1.2.3.4;proto=https\n1.2.3.4\n//a/b?c"]),
        "chunks": Target(chunk, (UpstreamBroken,), [picture("PNG"), picture("JPEG"), bytes(4 * 200)]),
        "chunk files": Target(
            kept_chunk, (chunk_file.BadChunk,), [chunk_file.pack(small.tobytes()), chunk_file.pack(bytes(4096))]
        ),
        "voxels": Target(
            voxels, (), [b"0/0-128_0-128_0-16", b"0/c/0/1/2", b"0/.zarray", b"s0/0/1/2", b"s0/attributes.json"]
        ),
        "ranges": Target(
            lambda body: byte_ranges.read(body.split(b"\n"), 1000), (byte_ranges.NotSatisfiable,), [b"bytes=1-9"]
        ),
        "paths": Target(
            lambda body: keys.tile_at(body.decode("latin-1")), (), [b"kat/xy/image/0123abcd/0/0/1_2/3.png"]
        ),
    }


def fuzz(name: str, seconds: int, seeds: str) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["ocpproxy"]):
        target = targets()[name]
    for n, seed in enumerate(target.seeds):
        Path(seeds, str(n)).write_bytes(seed)

    def once(body: bytes) -> None:
        with contextlib.suppress(*target.expected):
            target.run(body)

    bounds = [f"-max_total_time={seconds}", f"-max_len={_LONGEST_INPUT}", f"-timeout={_TIMEOUT}"]
    atheris.Setup([sys.argv[0], *bounds, f"-rss_limit_mb={_MEMORY}", "-print_final_stats=1", seeds], once)
    atheris.Fuzz()


def main() -> int:
    """Fuzz the targets one after another; return 1 when there is a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory() as seeds:
            fuzz(arguments.one, arguments.seconds, seeds)
        return 0
    findings = 0
    for name in arguments.targets or targets():
        command = [sys.executable, "-m", "benchmarks.fuzz", "--one", name, "--seconds", str(arguments.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        covered = re.findall(r"cov: (\d+)", done.stderr)
        count, cover = runs[1] if runs else "?", covered[-1] if covered else "?"
        verdict = "a finding" if done.returncode else "nothing found"
        print(f"{name:14} {count:>10} inputs, coverage {cover:>6}: {verdict}", flush=True)
        if done.returncode:
            findings += 1
            print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
    return int(findings > 0)


if __name__ == "__main__":
    raise SystemExit(main())
