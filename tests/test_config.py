"""The configuration: every option, every fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy import config
from ocpproxy.cli.main import main
from ocpproxy.config import AdminAddress, BadConfiguration, Settings
from ocpproxy.config.options import ADMIN, CACHE, DISPLAY, INDEX, SERVER
from ocpproxy.config.upstreams import all_options
from ocpproxy.daemon import tap
from ocpproxy.model.display import DisplaySettings
from ocpproxy.upstream.registry import KINDS

HERE = Path("/etc/ocpproxy")
OPTIONS = {"server": SERVER, "cache": CACHE, "index": INDEX, "admin": ADMIN, "upstream": all_options(KINDS)}
DATASET_OPTIONS = {**all_options(KINDS), **DISPLAY}
UNSET = "the environment variable KIND to be set"
EXAMPLE = Path(__file__).parent.parent / "etc" / "ocp.ini"


def parse(text: str, **environ: str) -> Settings:
    """Return the settings of a text."""
    return config.parse(text, HERE, environ, KINDS)


class DefaultsTests(SynchronousTestCase):
    """``etc/ocp.ini`` and the real defaults."""

    def test_example_is_the_default(self) -> None:
        """The example parses, has every option once, and each value in it is the real default."""
        self.assertEqual(config.parse(EXAMPLE.read_text(), HERE, {}, KINDS), parse(""))
        import configparser

        parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
        parser.read(EXAMPLE)
        self.assertEqual(
            {name: set(parser[name]) for name in parser.sections()},
            {name: set(options) for name, options in OPTIONS.items()},
        )
        for name, options in OPTIONS.items():
            for key, option in options.items():
                self.assertEqual(parser[name][key], option.default, f"[{name}] {key}")

    def test_every_dataset_option_is_explained(self) -> None:
        """The example shows a dataset of its own."""
        text = EXAMPLE.read_text()
        self.assertIn("[dataset kasthuri11]", text)
        for key in DATASET_OPTIONS:
            self.assertIn(f"{key} =", text)

    def test_without_a_file(self) -> None:
        """The demo, and everything under the user's cache directory."""
        settings = config.demo({"XDG_CACHE_HOME": "/x"}, KINDS)
        self.assertEqual(settings.upstream.type, "demo")
        self.assertEqual(
            (str(settings.cache.directory), settings.index.url.path), ("/x/ocpproxy", "/x/ocpproxy/index.sqlite")
        )
        self.assertEqual(str(config.demo({"HOME": "/h"}, KINDS).cache.directory), "/h/.cache/ocpproxy")


class AdminValuesTests(SynchronousTestCase):
    """``[admin]``."""

    def test_addresses(self) -> None:
        """A socket file with its mode, a tcp socket with its token, nothing, and the default."""
        for text, expected in (
            ("listen = unix:run/a.sock\n", AdminAddress(str(HERE / "run/a.sock"))),
            ("listen = unix:/run/a.sock:mode=0600\n", AdminAddress("/run/a.sock", 0o600)),
            ("listen =\n", None),
            ("", AdminAddress("/run/ocpproxy/admin.sock")),
            ("listen = tcp:81\ntoken = ${SECRET}\n", AdminAddress(host="127.0.0.1", port=81)),
            ("listen = tcp:81:interface=\\:\\:1\ntoken = ${SECRET}\n", AdminAddress(host="::1", port=81)),
        ):
            settings = parse(f"[admin]\n{text}", SECRET="0123456789abcdef")
            self.assertEqual(settings.admin.listen, expected)
            self.assertNotIn("0123456789abcdef", repr(settings))

    def test_faults(self) -> None:
        """What makes no sense is refused, and no token is shown."""
        for text, words in (
            ("listen = tcp:81\n", "a token from the environment"),
            ("listen = tcp:0\n", "unix:/run/ocpproxy/admin.sock, tcp:8081"),
            ("listen = tcp:81:interface=example.org\ntoken = ${SECRET}\n", "tcp:8081"),
            ("listen = unix:" + "a" * 200 + "\n", "at most 107 bytes"),
            ("listen = 8081\n", "unix:/run/ocpproxy/admin.sock"),
            ("token = 0123456789abcdef\n", "secrets are in the environment"),
            ("token = ${SHORT}\n", "16 letters or more"),
        ):
            with self.assertRaises(BadConfiguration) as raised:
                parse(f"[admin]\n{text}", SECRET="0123456789abcdef", SHORT="abc")
            self.assertIn(words, str(raised.exception))
            self.assertNotIn("0123456789abcdef", str(raised.exception))

    def test_demo(self) -> None:
        """The demo has one beside its cache, unless the path is too long for a socket."""
        for place, expected in (("/x", "/x/ocpproxy/admin.sock"), ("/" + "x" * 100, None)):
            found = config.demo({"XDG_CACHE_HOME": place}, KINDS).admin.listen
            self.assertEqual(None if found is None else found.path, expected)


class ValuesTests(SynchronousTestCase):
    """What values mean."""

    def test_values(self) -> None:
        """Sizes, suffixes, several sockets, the environment, inheritance."""
        settings = parse(
            "[server]\nlisten = tcp:80\n  unix:/run/x.sock\naccess_log = off ; quiet\n"
            "[cache]\ndirectory = ../tiles\nsize = 1.5 TiB\nmemory = 0\n"
            "[index]\nurl = mysql://u%40x:${SECRET}@db:3307/ocpcatmaid\n"
            "[upstream]\nurl = https://h/ocp/\ntimeout = 5\n"
            "[dataset a]\nchannel = em\n[dataset B-1]\ntype = demo\n",
            SECRET="p:w",
        )
        self.assertEqual(settings.server.listen, ("tcp:80", "unix:/run/x.sock"))
        self.assertFalse(settings.server.access_log)
        self.assertEqual((settings.cache.size, settings.cache.memory), (3 * 2**39, 0))
        self.assertEqual(settings.cache.directory, HERE / "../tiles")
        url = settings.index.url
        self.assertEqual(
            (url.user, url.password, url.host, url.port, url.database), ("u@x", "p:w", "db", 3307, "ocpcatmaid")
        )
        self.assertNotIn("p:w", repr(settings))
        self.assertEqual(settings.datasets["a"].upstream, settings.upstream)
        self.assertEqual(settings.datasets["a"].display.channel, "em")
        self.assertEqual(
            (settings.datasets["B-1"].upstream.type, settings.datasets["B-1"].upstream.timeout), ("demo", 5)
        )
        socket = parse("[index]\nurl = mysql://me@localhost/x?unix_socket=/run/m.sock").index.url
        self.assertEqual((socket.unix_socket, socket.user), ("/run/m.sock", "me"))
        self.assertEqual(parse("[index]\nurl = sqlite:///x.db").index.url.path, str(HERE / "x.db"))

    def test_looks(self) -> None:
        """Options of how a dataset is shown, and values of them that make no sense."""
        settings = parse(
            "[dataset a]\ntoken = b\nslice_coordinate = full\naspect = native\ngain = 4.0\nopaque = yes\n"
            "probability = red\nwindow = 200, 4000\n  DAPI-1: 3-9\n  x: 1 2\nformat = blosc\nmax_cutout = 2\n"
            "[dataset c]\n"
        )
        one = settings.datasets["a"]
        self.assertEqual((one.token, one.upstream.options["format"], one.upstream.max_cutout), ("b", "blosc", 2**21))
        windows = ((None, (200, 4000)), ("DAPI-1", (3, 9)), ("x", (1, 2)))
        self.assertEqual(one.display, DisplaySettings(None, True, True, windows, 4.0, True, True))
        self.assertEqual((settings.datasets["c"].display, settings.datasets["c"].token), (DisplaySettings(), None))
        for line in (
            "window = 9,3",
            "window = 5,5",
            "window = -1,-3",
            "window = 1,2\n  3,4",
            "window = a b: 1,2",
            "gain = 0",
            "gain = x",
            "aspect = square",
            "slice_coordinate = 3",
            "probability = blue",
            "opaque = maybe",
            "max_cutout = 0",
            "max_cutout = 2 TiB",
            "token = a/b",
        ):
            bad = self.assertRaises(BadConfiguration, parse, f"[dataset a]\n{line}\n")
            self.assertEqual([fault.key for fault in bad.faults], [line.split()[0]])

    def test_letters_of_a_token(self) -> None:
        """A section for a token that cannot be part of an address says which letters it may have."""
        for token in ("my.token", "mein Gehirn", "-a", "x" * 65, "Schädel"):
            bad = self.assertRaises(BadConfiguration, parse, f"[dataset {token}]\n")
            self.assertIn("letters a to z, A to Z, 0 to 9, _ and -", str(bad), token)

    def test_type_from_the_environment(self) -> None:
        """A type may be a variable, in every section; one that is not set is one fault."""
        for section in ("[upstream]", "[dataset a]"):
            settings = parse(f"{section}\ntype = ${{KIND}}\n", KIND="demo")
            found = settings.datasets["a"].upstream if "a" in settings.datasets else settings.upstream
            self.assertEqual(found.type, "demo")
            bad = self.assertRaises(BadConfiguration, parse, f"{section}\ntype = ${{KIND}}\n")
            self.assertEqual([(fault.key, fault.expected) for fault in bad.faults], [("type", UNSET)])

    def test_secret_of_another_kind(self) -> None:
        """A secret is not shown, though its option belongs to another kind of upstream."""
        secret = replace(all_options(KINDS)["format"], secret=True)
        kinds = {**KINDS, "other": replace(KINDS["demo"], name="other", options={"pass": secret})}
        text = "[upstream]\ntype = demo\npass = hunter2\n"
        bad = self.assertRaises(BadConfiguration, config.parse, text, HERE, {}, kinds)
        self.assertEqual([fault.key for fault in bad.faults], ["pass"])
        self.assertNotIn("hunter2", str(bad))

    def test_option_of_another_kind(self) -> None:
        """A dataset does not inherit the value of an option that its kind reads in another way."""
        number = all_options(KINDS)["z_shift"]
        kinds = {**KINDS, "other": replace(KINDS["demo"], name="other", options={"format": number})}
        text = "[upstream]\nurl = http://h\nformat = blosc\n[dataset a]\ntype = other\n[dataset b]\nmax_age = 60\n"
        settings = config.parse(text, HERE, {}, kinds)
        self.assertEqual(settings.datasets["a"].upstream.options["format"], number.read(number.default, HERE))
        self.assertEqual(settings.datasets["b"].upstream.options["format"], "blosc")

    def test_all_faults_at_once(self) -> None:
        """Every fault is reported, with section, key, value and what was expected."""
        text = (
            "[server]\nlisten = 8080\nworkers = many\nlissen = x\nerror_body = html\naccess_log = perhaps\n"
            "[cache]\nsize = 0\nmemory = lots\nreclaim_above = 95\nreclaim_interval = never\nmax_tiles = -1\n"
            "[index]\nurl = postgres://x\nlease = 0\n"
            "[upstream]\ntype = ftp\nurl = file:///etc/passwd\ntimeout = inf\nconnections = 0\nformat = pickle\n"
            "[dataset a b]\nurl = x\n[dataset c]\nurl = http://user:secret@host/\nchannel = a b\n[nonsense]\n"
        )
        bad = self.assertRaises(BadConfiguration, parse, text)
        reported = {(fault.section, fault.key) for fault in bad.faults}
        self.assertEqual(len(bad.faults), len(reported))
        self.assertEqual(
            reported,
            {
                *(("server", k) for k in ("listen", "workers", "lissen", "error_body", "access_log")),
                *(("cache", k) for k in ("size", "memory", "reclaim_above", "reclaim_interval", "max_tiles")),
                ("index", "url"),
                ("index", "lease"),
                *(("upstream", k) for k in ("type", "url", "timeout", "connections", "format")),
                ("dataset a b", "-"),
                ("dataset c", "url"),
                ("dataset c", "channel"),
                ("nonsense", "-"),
            },
        )
        self.assertIn("did you mean listen?", str(bad))
        self.assertNotIn("secret", str(bad))

    def test_no_fault_shows_a_secret(self) -> None:
        """Whatever is wrong with a value that may hold a secret, it is not shown."""
        environ = {"TOKEN": "hunter2", "KIND": "hunter2"}
        for lines in (
            "[upstream]\nurl = https://h/v?token=hunter2",
            "[upstream]\nurl = https://h/v#hunter2",
            "[upstream]\nurl = https://hunter2@h/v",
            "[upstream]\nurl = https://h/v;hunter2 x\ntype = zarr\nmissing_status = x",
            "[upstream]\nurl = image: https://h/v\n  image: https://h/v;sig=hunter2",
            "[dataset a]\ntype = n5\nurl = precomputed://https://h/v;hunter2",
            "[upstream]\ntype = ${KIND}",
            "[index]\nurl = mysql://h/d?password=hunter2",
            "[index]\nurl = mysql://u:hunter2@h:port/d",
            "[index]\nurl = mysql://u:hunter2@h/d?ssl_cert=x",
            "[server]\nauthorisation = hunter2\npasswd = hunter2\napi_key = hunter2\naws_secret = hunter2",
            "[upstream]\nauthorization = hunter2\nAuthorization_2 = hunter2\nbearer-token = hunter2",
            "[cache]\ndirectoy = https://u:hunter2@h/",
            "[dataset a]\ncolour = https://h/?sig=hunter2",
            "[cache]\nsize = 10;hunter2",
            "[server]\ntoken = hunter2",
        ):
            with self.assertRaises(BadConfiguration, msg=lines) as caught:
                config.parse(lines + "\n", HERE, environ, KINDS)
            self.assertNotIn("hunter2", str(caught.exception), lines)

    def test_any_letters_from_the_environment(self) -> None:
        """A variable in an address stands for its value, whatever letters that has; a whole address stays one."""
        odd = "p/a#s?s[w%41:@d"
        environ = {
            "PW": odd,
            "HOST": "db.example.org:3307",
            "ALL": "mysql://a:b@c/d",
            "DIR": "my dir/x#1",
            "Q": "a/b&c",
        }

        def index(url: str) -> Any:
            return config.parse(f"[index]\nurl = {url}\n", HERE, environ, KINDS).index.url

        found = index("mysql://${PW}:${PW}@${HOST}/d")
        self.assertEqual((found.user, found.password, found.host, found.port), (odd, odd, "db.example.org", 3307))
        self.assertEqual(
            (index("${ALL}").password, index("mysql://h/d?unix_socket=/${Q}").unix_socket), ("b", "/a/b&c")
        )
        found = config.parse("[upstream]\ntype = zarr\nurl = https://h/${DIR}/{token}\n", HERE, environ, KINDS)
        self.assertEqual(found.upstream.url[0][1], "https://h/my%20dir/x%231/{token}")

    def test_tls(self) -> None:
        """Files of certificates are relative to the configuration; without the authority's there is no check."""
        found = parse("[index]\nurl = mysql://u@h/d?ssl_ca=ca.pem&ssl_cert=/c.pem&ssl_key=k.pem\n").index.url
        self.assertEqual(
            dict(found.tls), {"ssl_ca": f"{HERE}/ca.pem", "ssl_cert": "/c.pem", "ssl_key": f"{HERE}/k.pem"}
        )
        self.assertTrue(found.tls_identity)
        for query in ("ssl_cert=x", "ssl_ca=x&ssl_verify_identity=maybe", "ssl=1"):
            self.assertRaises(BadConfiguration, parse, f"[index]\nurl = mysql://h/d?{query}\n")

    def test_home_of_nobody(self) -> None:
        """The home of a user that does not exist is a fault."""
        bad = self.assertRaises(BadConfiguration, parse, "[cache]\ndirectory = ~no-such-user/cache\n")
        self.assertEqual([fault.key for fault in bad.faults], ["directory"])

    def test_fronts(self) -> None:
        """Networks of fronts, and the address that clients are told."""
        found = parse("[server]\ntrusted_proxies = 127.0.0.1, ::1\n  10.0.0.0/8\npublic_url = https://h/x/\n").server
        self.assertEqual(
            ([str(n) for n in found.trusted_proxies], found.public_url),
            (["127.0.0.1/32", "::1/128", "10.0.0.0/8"], "https://h/x"),
        )
        for line in (
            "trusted_proxies = localhost",
            "trusted_proxies = 10.0.0.1/8",
            "public_url = h",
            "connections = 0",
        ):
            self.assertRaises(BadConfiguration, parse, f"[server]\n{line}\n")

    def test_more_faults(self) -> None:
        """Faults of two values together, or of the environment."""
        for text, message in (
            ("[cache]\nreclaim_to = 0.96", "no more than reclaim_above"),
            ("[index]\nurl = mysql://u:${NOT_SET}@h/d", "environment variable NOT_SET"),
            ("size = 3", "sections"),
            ("[cache]\nsize = 1\nsize = 2", "already exists"),
        ):
            self.assertIn(message, str(self.assertRaises(BadConfiguration, parse, text)))

    @given(
        st.text(max_size=100),
        st.sampled_from([(s, k) for s, options in {**OPTIONS, "dataset a": DATASET_OPTIONS}.items() for k in options]),
    )
    def test_any_value(self, value: str, where: tuple[str, str]) -> None:
        """Any value of any option is read or is a fault."""
        try:
            parse(f"[{where[0]}]\n{where[1]} = {value}\n")
        except BadConfiguration as bad:
            self.assertTrue(bad.faults)


class CommandTests(SynchronousTestCase):
    """check-config, and the daemon's own refusal."""

    def write(self, text: str) -> str:
        """Write a file, and return its path."""
        path: str = self.mktemp()
        Path(path).write_text(text)
        return path

    def test_check_config(self) -> None:
        """check-config exits with 0 for a good file, and with 1 for a bad one; the daemon reports the same faults."""
        from twisted.python.usage import UsageError

        good = self.write("[cache]\nsize = 5 GiB\n")
        self.assertEqual(main(["check-config", "--config", good]), 0)
        for text in ("[cache]\nsize = x\n", "[server]\nlisten = ssl:443:privateKey=/nonexistent\n", "\0"):
            bad = self.write(text)
            self.assertEqual(main(["check-config", "--config", bad]), 1)
            options = tap.Options()
            error = self.assertRaises(UsageError, options.parseOptions, ["--config", bad])
            self.assertIn("expected", str(error))
        self.assertEqual(main(["check-config", "--config", "/nonexistent/ocp.ini"]), 1)
