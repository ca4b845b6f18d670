"""What clients see of the gateway: their own addresses and the gateway's, directly or through a front.

A front (nginx, Apache, a load balancer) connects for its clients, and writes into headers who they are and what they
asked for: ``X-Forwarded-For``, ``-Proto``, ``-Host`` and ``-Prefix``, or ``Forwarded`` (RFC 7239). Anybody can send
these headers, so they count only from a front that the operator trusts, and from one on a unix socket, which only
processes of this machine can open. A front writes one kind, and passes on what its client sent of the other. So
``Forwarded`` counts only where there is no ``X-Forwarded-For``, ``-Proto`` or ``-Host``.

Fronts in a row append to lists. Of addresses the last one counts that is no trusted front's; of anything else the first
one, which is the client's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

Network = IPv4Network | IPv6Network
_OTHER_KIND = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
"""Headers of a front that does not write ``Forwarded``."""
_ODD_SCOPE = re.compile(r"%.*[^\w.-]", re.ASCII)
FORWARDING = (b"forwarded", *_OTHER_KIND)
"""The headers that decide which client a front names."""
HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]{0,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{0,5})?", re.ASCII)
"""The value of ``Host`` (RFC 9110, 7.2; RFC 3986, 3.2.2)."""
_SAFE_HOST = re.compile(r"[\w.:\[\]-]{1,255}", re.ASCII)
_PREFIX = re.compile(r"(?:/[\w.~-]{1,64}){1,8}/?", re.ASCII)
_PAIR = re.compile(r'\s*([\w-]{1,32})=("[^"\\]{0,256}"|[^\s",;]{0,256})\s*', re.ASCII)
_MOST = 32
"""Entries of a list that are looked at."""


class Peer(NamedTuple):
    """The other end of a connection."""

    host: str
    trusted: bool
    """Whether it is a front whose headers are believed."""


@dataclass(frozen=True)
class Front:
    """The fronts that are trusted.

    :param trusted: their networks.
    :param public_url: the address of this gateway for its clients; empty for the one that they ask for.
    :param auth_header: the header in which a front names the groups of a visitor; empty for none.
    """

    trusted: tuple[Network, ...] = ()
    public_url: str = ""
    auth_header: bytes = b""

    def peer(self, address: IAddress) -> Peer:
        """Return the peer at an address."""
        if isinstance(address, UNIXAddress):
            return Peer("-", True)
        host = str(getattr(address, "host", "-"))
        return Peer(host, self._trusts(host))

    def _trusts(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self.trusted)

    def client(self, peer: Peer, headers: Headers) -> str:
        """Return the address of the client of a request."""
        if not peer.trusted:
            return peer.host
        return self.forwarded_client({name: headers.getRawHeaders(name, []) for name in FORWARDING}) or peer.host

    def forwarded_client(self, headers: Mapping[bytes, Sequence[bytes]]) -> str | None:
        """Return the client that the headers of a front name, or None."""
        named = _items(headers.get(b"x-forwarded-for", ()))
        if not any(headers.get(name) for name in _OTHER_KIND):
            elements = _elements(headers.get(b"forwarded", ()))
            named = [element["for"] for element in elements if "for" in element]
        client = None
        for text in reversed(named[-_MOST:]):
            address = _address(_without_port(text))
            if address is None:
                break
            client = str(address)
            if not any(address in network for network in self.trusted):
                break
        return client

    def groups(self, peer: Peer, headers: Headers) -> frozenset[str]:
        """Return the groups of a visitor; none where no trusted front names any."""
        if not self.auth_header or not peer.trusted:
            return frozenset()
        return read_groups(headers.getRawHeaders(self.auth_header, []))

    def root_url(self, peer: Peer, headers: Headers, *, secure: bool) -> str:
        """Return the address of the gateway as a client sees it, without a slash at its end; empty if unknown.

        :param secure: whether the connection is encrypted.
        """
        if self.public_url:
            return self.public_url
        scheme, host = "https" if secure else "http", _first(headers, b"host")
        prefix = ""
        if peer.trusted:
            other_kind = any(map(headers.hasHeader, _OTHER_KIND))
            forwarded = [] if other_kind else _elements(headers.getRawHeaders(b"forwarded", []))
            asked = {name: value for element in reversed(forwarded) for name, value in element.items()}
            proto = (asked.get("proto") or _first(headers, b"x-forwarded-proto")).lower()
            scheme = proto if proto in ("http", "https") else scheme
            host = asked.get("host") or _first(headers, b"x-forwarded-host") or host
            prefix = _first(headers, b"x-forwarded-prefix")
            prefix = prefix.rstrip("/") if _PREFIX.fullmatch(prefix) else ""
        return f"{scheme}://{host}{prefix}" if _SAFE_HOST.fullmatch(host) else ""


def read_groups(values: Sequence[bytes]) -> frozenset[str]:
    """Return the groups in the values of a header: names with commas or semicolons between them."""
    names = (name.strip() for value in values for name in re.split("[,;]", value.decode("utf-8", "replace")))
    return frozenset(name for name in names if name)


def network(client: str) -> str:
    """Return what stands for a client where clients take turns: its address, or the /64 that it has of IPv6."""
    address = _address(client)
    return str(IPv6Network((address, 64), strict=False)) if isinstance(address, IPv6Address) else client


def _first(headers: Headers, name: bytes) -> str:
    """Return the first item of a header's list, or an empty string."""
    return next(iter(_items(headers.getRawHeaders(name, []))), "")


def _items(values: Sequence[bytes]) -> list[str]:
    return [item.strip() for value in values for item in value.decode("latin-1").split(",")]


def _elements(values: Sequence[bytes]) -> list[dict[str, str]]:
    """Return the elements of ``Forwarded``: names in small letters, and values without quotes."""
    return [dict(_pairs(element)) for element in _items(values)[-_MOST:]]


def _pairs(element: str) -> Iterator[tuple[str, str]]:
    for pair in element.split(";"):
        found = _PAIR.fullmatch(pair)
        if found is not None:
            yield found[1].lower(), found[2].strip('"')


def _without_port(text: str) -> str:
    """Return an address without its port: ``192.0.2.1:80``, ``[2001:db8::1]:80``."""
    found = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|(\d+\.\d+\.\d+\.\d+)(?::\d+)?", text, re.ASCII)
    return (found[1] or found[2] or "") if found else text


def _address(text: str) -> IPv4Address | IPv6Address | None:
    if _ODD_SCOPE.search(text):  # to Python, the scope of an IPv6 address may have any letters
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
