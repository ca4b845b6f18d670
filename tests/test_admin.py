"""The admin endpoint of the real daemon: who may use it, and what it answers."""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
from pathlib import Path

from twisted.web.http_headers import Headers

from tests.daemons import pause
from tests.prefetching import PrefetchCase, admin_client


class AdminTests(PrefetchCase):
    """The admin endpoint."""

    async def test_socket(self) -> None:
        """Only the owner and the group can use it; it is not on the public port; what is sent there is checked."""
        daemon = await self.begin()
        path = self.short / "admin.sock"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o660)
        client = admin_client(path)
        for method, where, body, status in (
            ("GET", "v1/", b"", 200),
            ("GET", "v2/jobs", b"", 404),
            ("GET", "v1/nothing", b"", 404),
            ("GET", "v1/jobs/x", b"", 404),
            ("GET", "v1/jobs/" + "9" * 500, b"", 404),
            ("DELETE", "v1/jobs", b"", 405),
            ("POST", "v1/jobs", b"no json", 422),
            ("POST", "v1/jobs", b'{"token": "nothing"}', 502),
            ("POST", "v1/jobs", b"x" * (16 * 2**20), 413),
            ("POST", "v1/jobs/1/explode", b"", 404),
        ):
            response = await client.request(method, f"http://x/{where}", data=body)
            document = await response.json()
            self.assertEqual((response.code, "error" in document), (status, status >= 400), where)
        code, _, _ = await daemon.get("v1/jobs")
        self.assertEqual(code, 404)
        self.assertNotIn("Traceback", daemon.log)

    async def test_token(self) -> None:
        """A tcp socket wants the token."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        secret = "s3cret-" + "x" * 20
        os.environ["OCPPROXY_TEST_TOKEN"] = secret
        self.addCleanup(os.environ.pop, "OCPPROXY_TEST_TOKEN")
        daemon = await self.begin(admin_listen=f"tcp:{port}", admin_token="${OCPPROXY_TEST_TOKEN}")
        for _ in range(3):  # a client that connects and resets ends nothing
            with socket.create_connection(("127.0.0.1", port)) as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for shown in ("", "Bearer wrong", secret):
            headers = Headers({"Authorization": [shown]})
            response = await self.client.get(f"http://127.0.0.1:{port}/v1/jobs", headers=headers)
            self.assertEqual(response.code, 401)
            await response.content()
        code, out = await self.command("prefetch", "kat", "--levels", "2")
        self.assertEqual(code, 0, out)
        self.assertNotIn(secret, daemon.log)

    async def test_killed(self) -> None:
        """The socket of a killed daemon is no hindrance; that of a living one is not taken."""
        daemon = await self.begin()
        await daemon.stop(signal.SIGKILL)
        self.assertTrue((self.short / "admin.sock").exists())
        await self.start_again()
        code, _ = await self.command("jobs")
        self.assertEqual(code, 0)
        other = await self.start_again(cache_directory="other", index_url="sqlite:///other.sqlite")
        self.assertIn("another daemon answers there", other.log)
        code, _, _ = await other.get("kat/3/0_0_0.png")
        self.assertEqual(code, 200)
        await other.stop()
        self.assertTrue((self.short / "admin.sock").exists())

    async def test_workers(self) -> None:
        """With workers the socket is the parent's; it goes on when the worker that runs jobs is killed."""
        daemon = await self.begin(server_workers="2")
        self.service.delay = 0.3
        code, out = await self.command("prefetch", "kat", "--levels", "0", "--detach")
        self.assertEqual(code, 0, out)
        while self.service.asked["cutout"] < 3:
            await pause(0.02)
        for child in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        while (await self.job())["state"] == "running":
            await pause(0.2)
        self.assertEqual(((await self.job())["state"], len(set(self.service.cutouts))), ("done", 16))
        self.assertEqual(stat.S_IMODE((self.short / "admin.sock").stat().st_mode), 0o660)
        self.service.delay = 0
        await daemon.stop()
        self.assertFalse((self.short / "admin.sock").exists())
