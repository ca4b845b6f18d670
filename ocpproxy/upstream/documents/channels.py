"""The description of a dataset whose channels have addresses of their own: a text for each channel, as one JSON object.

A channel that is not there, or may not be read, is left out of the dataset: its place has the reason. ::

    {"em": "TEXT", "labels": {"absent": "not found there"}}

The only channel of a dataset without named channels has the name ``""``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from ocpproxy.upstream.documents import checks, pyramids
from ocpproxy.upstream.documents.checks import json_object, string
from ocpproxy.upstream.documents.pyramids import Absent, Volume

_MAX_TEXT = 128 * 2**20
"""Characters of the text of a channel."""
_MAX_REASON = 4000
S = TypeVar("S", bound=pyramids.HasGrid)


def dump(texts: Mapping[str | None, str | Absent]) -> str:
    """Return the description."""
    return json.dumps(
        {name or "": text if isinstance(text, str) else {"absent": text.reason} for name, text in texts.items()}
    )


def parse_volumes(
    description: str, names: Iterable[str | None], parse: Callable[[str | None, str], Volume[S]]
) -> dict[str | None, Volume[S] | Absent]:
    """Return the volume of each channel; one that is not understood is absent.

    :param parse: returns the volume of a channel from its text, or raises `Unexpected`.
    :raises Unexpected: the description is none.
    """
    described = json_object("the description", checks.parse_json(description))
    volumes: dict[str | None, Volume[S] | Absent] = {}
    for name in names:
        text = described.get(name or "")
        if isinstance(text, dict):
            volumes[name] = Absent(string("absent", text.get("absent"), max_length=_MAX_REASON))
            continue
        try:
            volumes[name] = parse(name, string("the text of a channel", text, max_length=_MAX_TEXT))
        except checks.Unexpected as error:
            volumes[name] = Absent(f"{pyramids.NOT_UNDERSTOOD}{error}")
    return volumes
