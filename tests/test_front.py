"""Fronts: which client they name, and what it asked them for."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from ocpproxy.web.front import Front
from tests import ocpserver
from tests.daemons import DaemonCase, pause
from tests.test_requests import headers
from tests.volumes import em


class FrontTests(SynchronousTestCase):
    """`Front`."""

    def client(self, peer: IAddress, **fields: str | list[str]) -> str:
        """Return the client behind a front whose own networks are 10.0.0.0/8 and ::1."""
        front = Front((ip_network("10.0.0.0/8"), ip_network("::1")))
        return front.client(front.peer(peer), headers(**fields))

    def test_client(self) -> None:
        """The last address that is no trusted front's, from a trusted front only."""
        front, unix = IPv4Address("TCP", "10.0.0.1", 1), UNIXAddress("/x")
        anybody = IPv4Address("TCP", "192.0.2.9", 1)
        mapped = IPv6Address("TCP", "::ffff:10.0.0.1", 1)
        for peer, fields, expected in (
            (anybody, {"x_forwarded_for": "192.0.2.1"}, "192.0.2.9"),
            (front, {}, "10.0.0.1"),
            (front, {"x_forwarded_for": "192.0.2.1"}, "192.0.2.1"),
            (mapped, {"x_forwarded_for": "192.0.2.1"}, "192.0.2.1"),
            (unix, {"x_forwarded_for": "1.2.3.4, 192.0.2.1, 10.0.0.7"}, "192.0.2.1"),
            (front, {"x_forwarded_for": ["1.2.3.4", "192.0.2.1:99"]}, "192.0.2.1"),
            (front, {"x_forwarded_for": "10.0.0.8, 10.0.0.7"}, "10.0.0.8"),
            (front, {"x_forwarded_for": "192.0.2.1, nonsense"}, "10.0.0.1"),
            (front, {"x_forwarded_for": 'fe80::1%a" "b'}, "10.0.0.1"),
            (front, {"x_forwarded_for": "fe80::1%eth0"}, "fe80::1%eth0"),
            (front, {"forwarded": 'for=192.0.2.60;proto=http, For="[2001:db8::1]:47"'}, "2001:db8::1"),
            (front, {"forwarded": "for=192.0.2.60", "x_forwarded_for": "192.0.2.1"}, "192.0.2.1"),
            (front, {"forwarded": "for=192.0.2.60", "x_forwarded_proto": "https"}, "10.0.0.1"),
            (front, {"forwarded": ", ".join([*["for=9.9.9.9"] * 40, "for=192.0.2.1"])}, "192.0.2.1"),
        ):
            self.assertEqual(self.client(peer, **fields), expected, fields)

    def test_root_url(self) -> None:
        """What the client asked for, as a trusted front tells it; or `public_url`."""
        front = Front((ip_network("10.0.0.0/8"),))
        trusted, other = (front.peer(IPv4Address("TCP", host, 1)) for host in ("10.0.0.1", "192.0.2.9"))
        all_fields = {
            "x_forwarded_proto": "HTTPS, http",
            "x_forwarded_host": "t.org, inner",
            "x_forwarded_prefix": "/o/",
        }
        for peer, fields, expected in (
            (other, all_fields, "http://inner:8080"),
            (trusted, all_fields, "https://t.org/o"),
            (trusted, {"x_forwarded_proto": "gopher", "x_forwarded_prefix": "/../x y"}, "http://inner:8080"),
            (trusted, {"forwarded": 'proto=https;host="t.org:8443", host=inner'}, "https://t.org:8443"),
            (trusted, {"x_forwarded_host": "<script>"}, ""),
            (trusted, {"x_forwarded_proto": "http", "forwarded": "host=evil;proto=https"}, "http://inner:8080"),
            (trusted, {"x_forwarded_for": "192.0.2.1", "forwarded": "host=evil;proto=https"}, "http://inner:8080"),
        ):
            self.assertEqual(front.root_url(peer, headers(host="inner:8080", **fields), secure=False), expected)
        self.assertEqual(
            Front((), "https://p.org/x").root_url(other, headers(host="h"), secure=False), "https://p.org/x"
        )

    @given(st.text(max_size=80), st.text(max_size=80))
    def test_anything(self, forwarded: str, many: str) -> None:
        """No header is an error."""
        sent = Headers({b"forwarded": [forwarded.encode()], b"x-forwarded-for": [many.encode()]})
        front = Front((ip_network("0.0.0.0/0"),))
        peer = front.peer(IPv4Address("TCP", "10.0.0.1", 1))
        front.client(peer, sent)
        front.root_url(peer, sent, secure=True)


class FrontDaemonTests(DaemonCase):
    """The real daemon behind a front."""

    async def test_behind_a_front(self) -> None:
        """Misses, hits of both ways and documents show the client, and what it asked the front for."""
        service = ocpserver.Service(em(), 2)
        sent = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "t.example.org"}
        for trusted in ("127.0.0.0/8", ""):
            daemon = await self.start(self.configure(self.serve(service), server_trusted_proxies=trusted))
            for _ in range(4):
                code, _, _ = await daemon.get("kat/3/0_0_0.png", **sent)
                self.assertEqual(code, 200)
            while daemon.log.count("GET /kat/3/") < 4:
                await pause(0.05)
            lines = [line for line in daemon.log.splitlines() if "GET /kat/3/" in line]
            self.assertEqual([line.startswith("192.0.2.7 ") for line in lines], [bool(trusted)] * 4)
            _, body, _ = await daemon.get("projects/export", **{**sent, "X-Forwarded-Prefix": "/ocp"})
            self.assertEqual(b"https://t.example.org/ocp/ocpcatmaid/kat/" in body, bool(trusted))
            await daemon.stop()
