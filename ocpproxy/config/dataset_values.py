"""How the text of an option of a ``[dataset TOKEN]`` becomes its value; see `values`."""

from __future__ import annotations

import re
from pathlib import Path

from ocpproxy.config.values import BadValue
from ocpproxy.model.broken import BrokenSlices
from ocpproxy.model.dataset import NAME

_MOST_RANGES = 10_000


def windows(text: str, _: Path) -> tuple[tuple[str | None, tuple[int, int]], ...]:
    """Read (channel, window) pairs; the channel is None for the window of all channels that are not named."""
    pairs = []
    for line in filter(None, map(str.strip, text.splitlines())):
        found = re.fullmatch(rf"(?:({NAME}):)?\s*(-?\d{{1,10}})\s*[,\s-]\s*(-?\d{{1,10}})", line, re.ASCII)
        if not found or int(found[3]) <= int(found[2]):
            raise BadValue("LOW,HIGH for all channels, or CHANNEL: LOW,HIGH, one a line, with LOW below HIGH")
        pairs.append((found[1], (int(found[2]), int(found[3]))))
    if len({channel for channel, _ in pairs}) != len(pairs):
        raise BadValue("one window for each channel")
    return tuple(pairs)


def pinned_levels(text: str, _: Path) -> tuple[int, int | None] | None:
    """Read levels that are pinned: (first, last), None for the coarsest; None for none."""
    found = re.fullmatch(r"(\d{1,5})(?:(-)(\d{1,5})?)?", text)
    if not text:
        return None
    if not found or (found[3] and int(found[3]) < int(found[1])):
        raise BadValue("levels such as 3-5, 4, or 3- up to the coarsest")
    first = int(found[1])
    return first, (int(found[3]) if found[3] else None if found[2] else first)


def served(text: str, _: Path) -> frozenset[str]:
    """Read what a dataset is served as: ``tiles``, ``chunks`` or both."""
    found = frozenset(part.strip() for part in text.split(","))
    if not found <= {"tiles", "chunks"}:
        raise BadValue("tiles, chunks, or both with a comma between them")
    return found


def groups(text: str, _: Path) -> frozenset[str]:
    """Read the groups that may see a dataset; none for everybody."""
    found = frozenset(part.strip() for part in re.split(r"[,\n]", text) if part.strip())
    if any(";" in name or len(name) > 200 for name in found) or (text.strip() and not found):
        raise BadValue("names of groups with commas between them")
    return found


def broken_slices(text: str, _: Path) -> BrokenSlices | None:
    """Read slices that are broken, and what is shown instead; None for none."""
    if not text:
        return None
    numbers, _colon, policy = text.partition(":")
    parts = [part.strip() for part in re.split(r"[,\n]", numbers)]
    found = [re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", part) for part in parts]
    ranges = [(int(one[1]), int(one[2] or one[1])) for one in found if one is not None]
    in_order = all(first <= last for first, last in ranges)
    if len(ranges) != len(parts) or not in_order or policy.strip() not in ("nearest", "blank"):
        raise BadValue("slices and what is shown instead, such as 12, 40-44: nearest or 12, 40-44: blank")
    if len(ranges) > _MOST_RANGES:
        raise BadValue(f"at most {_MOST_RANGES} ranges")
    return BrokenSlices.of(iter(ranges), nearest=policy.strip() == "nearest")
