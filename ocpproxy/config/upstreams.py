"""The upstream of a section: its options by kind, and whether its addresses make sense."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from ocpproxy.config.addresses import FORMATS, UnusableAddress, parse_address
from ocpproxy.config.faults import NOT_SHOWN, Fault
from ocpproxy.config.options import UPSTREAM, Option, UpstreamKind
from ocpproxy.config.settings import UpstreamSettings
from ocpproxy.model.dataset import NAME

Kinds = Mapping[str, UpstreamKind]
"""The kinds of upstream by their names."""


def all_options(kinds: Kinds) -> dict[str, Option]:
    """Return the options of all kinds together."""
    return dict(UPSTREAM) | {key: option for kind in kinds.values() for key, option in kind.options.items()}


def make_settings(found: Mapping[str, Any], kind: UpstreamKind) -> UpstreamSettings:
    """Return the settings of an upstream from the values of its options."""
    own = MappingProxyType({key: found[key] for key in kind.options})
    return UpstreamSettings(**{key: found[key] for key in UPSTREAM}, options=own)


def hosts(found: Mapping[str, Any]) -> set[str]:
    """Return scheme and host of each address."""
    urls = (re.sub("^bossdb://", "https://api.bossdb.io/", address) for _, address in found.get("url", ()))
    return {"/".join(url.split("/")[:3]) for url in urls}


def faults(
    section: str, kind: UpstreamKind, found: Mapping[str, Any], written: Mapping[str, str], *, inherits_url: bool
) -> Iterator[Fault]:
    """Yield what is wrong with the values together.

    :param found: the values of the section's options that could be read.
    :param written: the options as they are written in the section.
    :param inherits_url: whether the address of ``[upstream]`` is good for this section.
    """
    command = kind.not_installed()
    if command is not None:
        yield Fault(section, "type", kind.name, problem=f"the type is not installed; install it by: {command}")
    raw = written.get("url", "").strip()
    shown = NOT_SHOWN if re.search("[@?#;]", raw) else raw
    is_dataset = section != "upstream"
    if is_dataset and kind.has_address and "url" not in written and not inherits_url:
        yield Fault(section, "url", shown, "the address of the volume")
    for channel, address in found.get("url", ()):
        expected = _wrong_address(kind, channel, address)
        if expected:
            yield Fault(section, "url", shown, expected)
        elif "{channel}" in address and channel is None and not found.get("channels"):
            yield Fault(section, "channels", "", "the names that {channel} in url stands for")
    for other in _formats(raw):
        if kind.name in FORMATS.values() and kind.name != other:
            yield Fault(section, "url", shown, f"an address of type {kind.name}, not of {other}; or type = {other}")
    if found.get("authorization") and len(hosts(found)) > 1:
        yield Fault(section, "authorization", NOT_SHOWN, "one host for all channels, to which it is sent")
    if found.get("credentials") and "missing_status" in written:
        problem = "it does not count with credentials = on: what is missing in such a bucket is known without"
        yield Fault(section, "missing_status", written["missing_status"], problem=problem)
    if is_dataset or ("url" in found and serves_any_token(kind, found["url"])):
        for key, expected in kind.required.items():
            if key in found and not found[key]:
                yield Fault(section, key, "", expected)


def _formats(raw: str) -> set[str]:
    """Return the types of upstream that addresses name, as they are written."""
    formats = set()
    for line in raw.splitlines():
        with suppress(UnusableAddress):
            formats.add(parse_address(re.sub(rf"^{NAME}:\s+", "", line.strip(), flags=re.ASCII)).format)
    return {name for name in formats if name is not None}


def serves_any_token(kind: UpstreamKind, url: Iterable[tuple[str | None, str]]) -> bool:
    """Return whether an upstream at these addresses can be asked for tokens that have no section of their own."""
    return not kind.has_address or all("{token}" in address for _, address in url)


def _wrong_address(kind: UpstreamKind, channel: str | None, address: str) -> str | None:
    """Return what was expected of an address, or None when it is fine."""
    if kind.schemes and address.partition(":")[0] not in kind.schemes:
        return f"an address of type {kind.name}: {', '.join(kind.schemes)}"
    if channel is not None and not kind.url_per_channel:
        return f"one address for all channels of type {kind.name}"
    if not kind.has_address and "{" in address:
        return f"an address without {{token}} and {{channel}}: the servers of type {kind.name} know their tokens"
    if "{channel}" in address and not kind.url_per_channel:
        return f"an address without {{channel}}, which type {kind.name} has no use for"
    return None
