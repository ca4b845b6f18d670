"""Every generation of upstream `ocp`, pixel for pixel: each type of channel in every plane, level and time."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tests import ocpserver, oracle
from tests.channels import PLANES, SMALL, ViewsCase, channels, shown
from tests.mixins import ViewsMixin
from tests.volumes import em, level


class GenerationTests(ViewsMixin):
    """Each type of channel: every plane and level; first, middle and last slices; one time in the middle."""

    generation = 0
    options: dict[str, str] = {}  # noqa: RUF012
    cube = SMALL

    async def every(self, *names: str) -> None:
        """Compare all pixels of channels with the oracle."""
        generation = self.generation
        served = {name: channels()[name] for name in names}
        offset = (0, 0, 1) if generation == 1 else (64, 32, 5)
        service = ocpserver.Service(em(), generation, offset, levels=2, channels=served, scale=5, **self.cube)
        daemon = await self.view(service, name=f"{names[0]}.ini", cache_directory=names[0], **self.options)
        for name, one in served.items():
            called = "image" if generation == 1 and one.kind in ("image", "timeseries") else name
            called = one.kind if generation == 1 and called == name and one.kind != "channels" else called
            for n in range(2):
                volume = level(one.voxels, n)
                time = volume.shape[0] - 1 if one.kind == "timeseries" else None
                volume = volume if time is None else volume[time]
                for plane in PLANES:
                    through = {"xy": 0, "xz": 1, "yz": 2, "zy": 2}[plane]
                    first = (offset[2], offset[1] >> n, offset[0] >> n)[through]
                    scale = Fraction(5, 2**n)
                    for slice_ in (0, volume.shape[through] // 2, volume.shape[through] - 1):
                        whole = shown(name, one, oracle.plane(volume, plane, slice_, scale))
                        base = f"kat/{called}/{plane}" + ("" if time is None else f"/{time}")
                        await self.check(daemon, base, whole, n, first + slice_, one.kind not in ("annotation", "rgba"))

    async def test_images(self) -> None:
        """Images of 8 and 16 bits."""
        await self.every("em", "wide")

    async def test_times(self) -> None:
        """Time series."""
        await self.every("moving", "moving16")

    async def test_ids(self) -> None:
        """Annotations of 32 and 64 bits."""
        await self.every("ids", "ids64")

    async def test_shares(self) -> None:
        """Bitmasks and probabilities."""
        await self.every("mask", "sure")

    async def test_colours(self) -> None:
        """Colours of 32 and 64 bits."""
        await self.every("rgb", "rgb64")


class FirstGenerationTests(GenerationTests, ViewsCase):
    """Generation 1: one type for a whole project."""

    generation = 1

    async def every(self, *names: str) -> None:
        """Compare each channel as a project of its own."""
        for name in names:
            await super().every(name)


class NamedChannelsTests(GenerationTests):
    """Channels with names, among them those with a window of their own."""

    async def test_window(self) -> None:
        """A channel with a window in its description."""
        await self.every("windowed")


class SecondGenerationTests(NamedChannelsTests, ViewsCase):
    """Generation 2, in slabs that are thinner than usual."""

    generation = 2
    options = {"upstream_max_cutout": "2"}  # noqa: RUF012
    cube: dict[str, Any] = {}  # noqa: RUF012


class ThirdGenerationTests(NamedChannelsTests, ViewsCase):
    """Generation 3: channels with times of their own, in blosc."""

    generation = 3
    options = {"upstream_format": "blosc"}  # noqa: RUF012
