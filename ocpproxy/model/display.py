"""How a dataset is shown: what its operator has set, and how each channel is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ocpproxy.model.address import COLOURS, ChannelName, Colouring, ImageBase
from ocpproxy.model.broken import BrokenSlices
from ocpproxy.model.dataset import CannotDisplay, Channel, Dataset

PLACEHOLDER = "0"
"""An item of a channel list that takes a colour and shows nothing."""
Window = tuple[int, int]
"""The values shown as black and as white; there is no window when the second is not larger."""


class DrawMode(Enum):
    """How voxels become pixels. The values are part of `Stack.version`."""

    GREY = "grey"
    RED = "heat"
    """Shades of red instead of grey."""
    LABELS = "labels"
    """Ids in the colours of the palette; id 0 is transparent."""
    RGBA = "rgba"
    """Voxels that hold colours."""
    FALSE_COLOUR = "colours"
    """Each channel adds its light in a colour of its own."""


@dataclass(frozen=True, slots=True)
class DisplaySettings:
    """What the operator has set for a dataset (``[dataset]`` in the configuration)."""

    channel: str | None = None
    """The channel of addresses that name none."""
    full_slices: bool = False
    """Slices of xz, yz and zy are counted in voxels of the finest level at every level, as CATMAID does by default."""
    native: bool = False
    """Planes that show z have one pixel for each z step, for viewers that stretch them themselves."""
    windows: tuple[tuple[str | None, Window], ...] = ()
    """(channel, window) pairs; the channel is None for all that are not named."""
    gain: float = 1.0
    """What false colours are multiplied by. Open Connectome used 4 from 2013 to 2015."""
    opaque: bool = False
    """False colour is black where no channel has light, not transparent."""
    red: bool = False
    """Float channels are drawn in red instead of grey."""
    broken: BrokenSlices | None = None
    """Slices of xy that are broken."""
    as_tiles: bool = True
    """Whether the dataset is served as tiles."""
    as_chunks: bool = True
    """Whether the dataset is served as chunks of voxels."""

    def window(self, channel: Channel) -> Window | None:
        """Return the window of a channel, or None: the operator's, else the upstream's where its type allows one."""
        windows = dict(self.windows)
        low, high = windows.get(channel.name, windows.get(None, channel.window))
        possible = channel.voxel_type.has_window or channel.kind == "grey"
        return (low, high) if high > low and possible else None


DEFAULT_DISPLAY = DisplaySettings()
"""Nothing is set."""


class ShownChannel(NamedTuple):
    """A channel as a stack shows it."""

    channel: Channel
    window: Window | None
    colour: str | None = None
    """One of `COLOURS`, in false colour."""


def shown_channels(
    dataset: Dataset, base: ImageBase, display: DisplaySettings
) -> tuple[tuple[ShownChannel, ...], DrawMode]:
    """Return the channels that an image base shows, and how they are drawn.

    :raises CannotDisplay: unknown channel, or one that cannot be drawn this way.
    """
    if base.colouring is Colouring.PLAIN or _is_plain_list(dataset, base):
        name = base.channels[0].name if base.channels else display.channel
        channel = dataset.channel(name)
        return (ShownChannel(channel, display.window(channel)),), draw_mode(dataset, channel, display)
    return _false_colours(dataset, base.channels, display), DrawMode.FALSE_COLOUR


def _is_plain_list(dataset: Dataset, base: ImageBase) -> bool:
    """Return whether a channel list names a single channel that is shown as it is."""
    if base.colouring is not Colouring.BY_POSITION or len(base.channels) != 1:
        return False
    name = base.channels[0].name
    return name != PLACEHOLDER and dataset.channel(name).kind != "channels"


def draw_mode(dataset: Dataset, channel: Channel, display: DisplaySettings) -> DrawMode:
    """Return how a channel is drawn by itself.

    :raises CannotDisplay: when voxels of its kind and type have no picture.
    """
    kind, voxel_type = channel.kind, channel.voxel_type
    if kind == "annotation" and voxel_type.is_integer:
        return DrawMode.LABELS
    if kind in ("bitmask", "grey") and voxel_type.is_integer:
        return DrawMode.GREY
    if kind in ("image", "timeseries", "channels", "probability", "grey") and not voxel_type.holds_colours:
        return DrawMode.RED if display.red and not voxel_type.is_integer else DrawMode.GREY
    if kind in ("image", "timeseries", "rgba") and voxel_type.holds_colours:
        return DrawMode.RGBA
    raise CannotDisplay(f"channel {channel.name} of {dataset.token} is {kind} {channel.dtype}, which has no picture")


def _false_colours(
    dataset: Dataset, names: tuple[ChannelName, ...], display: DisplaySettings
) -> tuple[ShownChannel, ...]:
    """Return the channels of a list, each in the colour it names, else in the colour of its position.

    They are in the order of their names, for colours are added: one picture has one name, whatever the order of a list.
    """
    shown: list[ShownChannel] = []
    for default_colour, item in zip(COLOURS, names, strict=False):
        if item.name == PLACEHOLDER:
            continue
        channel = dataset.channel(item.name)
        if draw_mode(dataset, channel, DEFAULT_DISPLAY) is not DrawMode.GREY:
            raise CannotDisplay(
                f"channel {channel.name} of {dataset.token} is {channel.kind} {channel.dtype}: it has colours of its "
                "own, and cannot be one of a false colour"
            )
        if any(other.channel is channel for other in shown):
            raise CannotDisplay(f"a false colour has each channel once, and {channel.name} is named twice")
        shown.append(ShownChannel(channel, display.window(channel), item.colour or default_colour))
    if not shown:
        raise CannotDisplay(
            f"the channel list names no channel of {dataset.token}: all its places are kept free ({PLACEHOLDER})"
        )
    return tuple(sorted(shown, key=lambda item: item.channel.name))
