"""``/``: the datasets as cards, each with what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twisted.web.template import Flattenable, Tag

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.web.pages import datasets, layout
from ocpproxy.web.pages.datasets import DatasetState
from ocpproxy.web.pages.layout import PageFrame, copied, icon, tags
from ocpproxy.web.voxels.resource import addresses

_MANY = 8
"""Datasets from which on there is a search box."""
_MOST_CHANNELS = 12
"""Channels that are named; of the others only the number is shown."""
_READERS = {
    "zarr3": "Zarr 3 with OME 0.5: zarr-python 3, napari-ome-zarr, TensorStore",
    "zarr": "Zarr 2 with OME 0.4: zarr-python, napari-ome-zarr",
    "n5": "N5: Fiji, BigDataViewer, z5py",
    "precomputed": "precomputed: CloudVolume, Neuroglancer, TensorStore",
}


@dataclass(frozen=True)
class DatasetCard:
    """A dataset as the page shows it."""

    token: str
    state: DatasetState
    entry: CatalogueEntry | None
    """None where the dataset is not described."""


@dataclass(frozen=True)
class HomePage:
    """The page.

    :param root: the address of the gateway as its clients see it.
    :param neuroglancer: whether it is installed.
    """

    frame: PageFrame
    root: str
    neuroglancer: bool

    def content(self, cards: Sequence[DatasetCard]) -> list[Flattenable]:
        """Return what is between header and footer."""
        count = f"{len(cards)} dataset{'' if len(cards) == 1 else 's'}"
        search: list[Flattenable] = []
        if len(cards) >= _MANY:
            search = [
                tags.label("Search", tags.input(type="search", id="search", autocomplete="off"), class_="search"),
                tags.p(id="found", role="status", class_="hint"),
            ]
        shown: Flattenable = [self._card(card) for card in cards] or self._nothing()
        return [
            tags.main(
                tags.div(tags.h1("Datasets"), tags.p(count, class_="hint"), *search, class_="heading"),
                tags.div(shown, class_="cards", id="cards"),
            ),
            layout.footer(self.frame),
        ]

    def _nothing(self) -> Tag:
        return tags.div(
            tags.h2("No dataset is configured, or was asked for"),
            tags.p(
                "The administrator adds one by a section ",
                tags.code("[dataset NAME]"),
                " in the configuration. Where the upstream serves any token, open ",
                tags.code("/view/TOKEN/"),
                ".",
            ),
            class_="empty",
        )

    def _card(self, card: DatasetCard) -> Tag:
        entry, state = card.entry, card.state
        is_tiled = entry is not None and entry.source.display.as_tiles
        heading: Flattenable = card.token
        if is_tiled or entry is None:
            heading = tags.a(card.token, href=self.frame.to(f"view/{card.token}/"))
        return tags.article(
            self._thumbnail(card),
            tags.div(
                tags.h2(heading),
                self._state(state),
                *([] if entry is None else [self._facts(entry), self._actions(entry)]),
                class_="about",
            ),
            class_="card",
            **{"data-words": self._words(card)},
        )

    @staticmethod
    def _words(card: DatasetCard) -> str:
        names = [] if card.entry is None else [channel.name for channel in card.entry.dataset.channels]
        return " ".join([card.token, *names[:100]]).lower()

    def _thumbnail(self, card: DatasetCard) -> Tag:
        path = None if card.entry is None else datasets.overview_path(card.entry)
        if path is None:
            return tags.div(icon("cube"), class_="thumbnail none")
        picture = tags.img(
            src=self.frame.to(path), alt=f"The middle slice of {card.token}", loading="lazy", width="192", height="192"
        )
        return tags.a(picture, href=self.frame.to(f"view/{card.token}/"), class_="thumbnail")

    @staticmethod
    def _state(state: DatasetState) -> Tag:
        return tags.p(
            tags.span(state.health.value, class_=f"state {state.health.name.lower()}"),
            f" {state.reason}",
            class_="health",
        )

    @staticmethod
    def _facts(entry: CatalogueEntry) -> Tag:
        dataset = entry.dataset
        named = [datasets.about_channel(one) for one in dataset.channels[:_MOST_CHANNELS]]
        others = len(dataset.channels) - len(named)
        channels = ", ".join(named) + (f" and {others} more" if others > 0 else "")
        rows = [
            ("Size", f"{datasets.in_voxels(dataset)} voxels, {datasets.in_bytes(dataset)}"),
            ("Resolution", datasets.in_nanometres(dataset) or "not known"),
            ("Levels", str(len(dataset.levels))),
            ("Channels", channels),
            ("Comes from", datasets.comes_from(entry)),
        ]
        return tags.dl(*(tags.div(tags.dt(name), tags.dd(value)) for name, value in rows))

    def _actions(self, entry: CatalogueEntry) -> Tag:
        token, display = entry.dataset.token, entry.source.display
        actions: list[Tag] = []
        if display.as_tiles:
            actions.append(self._button("slices", "Look at slices", f"view/{token}/", first=True))
        if display.as_chunks and self.neuroglancer:
            actions.append(self._button("cube", "Neuroglancer", f"neuroglancer/{token}"))
        if display.as_tiles:
            actions.append(self._button("paste", "CATMAID", f"view/{token}/catmaid"))
        actions.extend([self._addresses(entry)] if display.as_chunks else [])
        return tags.div(*actions, class_="actions")

    def _button(self, drawing: str, words: str, path: str, *, first: bool = False) -> Tag:
        return tags.a(icon(drawing), words, href=self.frame.to(path), class_="button first" if first else "button")

    def _addresses(self, entry: CatalogueEntry) -> Tag:
        dataset = entry.dataset
        name = entry.source.display.channel or dataset.default_channel
        channel = next((one for one in dataset.channels if one.name == name), dataset.channels[0])
        found = addresses(dataset.token, channel, self.root)
        rows = [
            tags.li(tags.span(words, class_="hint"), copied(found[kind], f"the address for {kind}"))
            for kind, words in _READERS.items()
            if kind in found
        ]
        more = []
        if len(dataset.channels) > 1:
            more = [tags.p(f"These are for the channel {channel.name}; put another name in its place.", class_="hint")]
        return tags.details(
            tags.summary(icon("code"), "napari, zarr, Fiji", class_="button"), tags.ul(*rows), *more, class_="addresses"
        )
