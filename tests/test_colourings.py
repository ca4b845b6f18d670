"""False colours: one picture has one name, and what anybody can make up does not fill the cache."""

from __future__ import annotations

from itertools import permutations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.colourings import Colourings
from ocpproxy.model.address import ChannelName, Colouring, ImageBase
from ocpproxy.model.dataset import CannotDisplay, Channel, Dataset, Level
from ocpproxy.model.stack import Stack
from tests import ocpserver
from tests.daemons import DaemonCase
from tests.ocpserver import Served
from tests.volumes import em

CHANNELS = tuple(Channel(name, "channels", "uint8") for name in ("c", "a", "b"))
DATASET = Dataset("kat", {0: Level((64, 64, 4), (0, 0, 1), (64, 64, 4))}, CHANNELS, "a")


def stack(*items: str) -> Stack:
    """Return the stack of ``mcfc/`` with these items, or of a channel alone."""
    if len(items) == 1 and ":" not in items[0]:
        return Stack.build(DATASET, ImageBase("kat", channels=(ChannelName(items[0]),)))
    names = tuple(ChannelName(item.partition(":")[0], item.partition(":")[2] or None) for item in items)
    return Stack.build(DATASET, ImageBase("kat", channels=names, colouring=Colouring.NAMED))


class NameTests(SynchronousTestCase):
    """The names of stacks."""

    def test_order(self) -> None:
        """The order of a list makes no difference; other colours do."""
        self.assertEqual(len({stack(*items).name for items in permutations(("a:R", "b:G", "c:B"))}), 1)
        self.assertNotEqual(stack("a:R", "b:G").name, stack("a:G", "b:R").name)
        self.assertEqual(stack("a", "b").name, stack("b:M", "a:C").name)

    def test_each_once(self) -> None:
        """A channel that is named twice is refused."""
        for items in (("a:R", "a:G"), ("a", "b", "a")):
            with self.assertRaises(CannotDisplay) as caught:
                stack(*items)
            self.assertIn("twice", str(caught.exception))


class ColouringsTests(SynchronousTestCase):
    """`Colourings`."""

    def test_first_ones(self) -> None:
        """The first eight are stored, and one more each hour; channels alone always are."""
        clock = Clock()
        colourings = Colourings(clock)
        asked = [stack(f"a:{one}", f"b:{two}") for one in "CMYRGB" for two in "CMYRGB"]
        self.assertEqual([colourings.is_stored(one) for one in asked].count(True), 8)
        self.assertTrue(colourings.is_stored(asked[0]))
        self.assertTrue(colourings.is_stored(stack("a")))
        clock.advance(3600)
        self.assertEqual([colourings.is_stored(one) for one in asked].count(True), 9)


class CacheTests(DaemonCase):
    """The real daemon, asked for everything that can be made up."""

    async def test_made_up(self) -> None:
        """A hundred false colours cost one cutout a channel, and leave the tiles of eight."""
        channels = {name: Served(em()[:4, :64, :64], "channels") for name in ("a", "b")}
        service = ocpserver.Service(em()[:4, :64, :64], 3, levels=1, channels=channels)
        daemon = await self.start(self.configure(self.serve(service)))
        for one in "CMYRGB":
            for two in "CMYRGB":
                for listed in (f"a:{one},b:{two}", f"b:{two},a:{one}"):
                    code, _, _ = await daemon.get(f"mcfc/kat/{listed}/xy/1/0_0_0.png")
                    self.assertEqual(code, 200)
        await daemon.rest()
        self.assertEqual(service.asked["cutout"], 2)
        self.assertEqual(len(list((self.place / "cache" / "tiles").rglob("*.png"))), 8 * 4)
