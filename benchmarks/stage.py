"""What the benchmarks stand on: servers in processes of their own, on the loopback, and loads by ``wrk``.

Public tools only: wrk, nginx and varnish from their packages, MapProxy from its wheel (``MAPPROXY`` names the directory
with its programs, where it is not the one this Python is in). What is not installed is left out and said.

Figures of one run are for comparing with each other; a rate of another day, or of another machine, tells nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str, timeout: float = 60) -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) of one request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def metric(port: int, name: str) -> float:
    """The sum of the samples of a gateway's metric whose line begins so."""
    lines = get(port, "/metrics")[1].decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def resident(pid: int) -> float:
    """MiB of memory that a process has."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    """Return when it is true."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit("a server of this benchmark does not come up")
        time.sleep(0.02)


@dataclass
class Load:
    """What ``wrk`` has measured."""

    rate: float
    """Requests a second."""
    p99: float
    """Seconds."""
    failed: int


def wrk(port: int, path: str = "/", seconds: int = 4, script: Path | None = None, headers: Sequence[str] = ()) -> Load:
    """``wrk -t1 -c16`` on one server; with a script, on the paths that it says."""
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency", *(f"-H{header}" for header in headers)]
    if script is not None:
        command += ["-s", str(script)]
    command.append(f"http://127.0.0.1:{port}{path}")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", said)
    ((late, unit),) = re.findall(r"99%\s+([\d.]+)(us|ms|s)", said)
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", said)))
    errors = re.findall(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    failed += sum(sum(map(int, one)) for one in errors)
    return Load(float(rate), float(late) * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit], failed)


@dataclass
class Stage:
    """A directory, and the servers that go with it."""

    place: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    listeners: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The server at each port."""
    at_the_end: list[Callable[[], object]] = field(default_factory=list)

    def run(self, command: Sequence[object], name: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start a server; what it says is in a file of that name."""
        log = (self.place / f"{name}.log").open("wb")
        process = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, cwd=self.place, env={**os.environ, **environ}
        )
        self.running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End one server."""
        process.terminate()
        process.wait(60)
        self.running.remove(process)

    def processor_seconds(self, port: int) -> float:
        """What the server at a port, with all its processes, has spent until now; only listeners of ours are known."""
        listeners = {self.listeners[port].pid} if port in self.listeners else set()
        return sum(_spent(pid) for pid in _family(listeners))

    def load_all(
        self,
        servers: Mapping[str, tuple[int | None, str]],
        seconds: int,
        rates: dict[str, list[float]],
        frugal: dict[str, list[float]],
    ) -> None:
        """Load each server in turn, and add its answers a second, and by a second of its processor time.

        :param servers: port and path by name; a port is None where the server is not installed.
        """
        for name, (port, path) in servers.items():
            if port is None:
                continue
            began = self.processor_seconds(port)
            load = wrk(port, path, seconds)
            spent = self.processor_seconds(port) - began
            if load.failed:
                print(f"    {name}: {load.failed} failed")
            rates.setdefault(name, []).append(load.rate)
            frugal.setdefault(name, []).append(load.rate * seconds / spent)

    def gateway(self, name: str = "gateway", more: str = "", **options: str) -> tuple[int, subprocess.Popen[bytes]]:
        """The gateway with ``section_option = value`` for each that is given; its port and process.

        :param more: further sections.
        """
        said: dict[str, dict[str, str]] = {
            "server": {"listen": "tcp:0:interface=127.0.0.1", "access_log": "off"},
            "cache": {"directory": "cache"},
            "index": {"url": "sqlite:///index.sqlite"},
            "admin": {"listen": ""},
            "upstream": {"type": "demo"},
        }
        for option, value in options.items():
            section, _, key = option.partition("_")
            said[section][key] = value
        (self.place / f"{name}.ini").write_text(
            "".join(f"[{s}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for s, values in said.items())
            + more
        )
        process = self.run(
            [PROGRAMS / "twistd", "-n", "--pidfile=", "ocpproxy", "--config", self.place / f"{name}.ini"], name
        )
        log = self.place / f"{name}.log"
        wait_for(lambda: re.search(r"answers at http://127.0.0.1:\d+", log.read_text()) or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        wait_for(lambda: log.read_text().count(" is ready") >= int(said["server"].get("workers", "1")))
        port = int(re.findall(r"answers at http://127.0.0.1:(\d+)", log.read_text())[0])
        self.listeners[port] = process
        return port, process

    def origin(self, *arguments: str) -> int:
        """An Open Connectome server with ready-made cutouts (`benchmarks.origin`); its port."""
        port = free_port()
        self.run([sys.executable, ROOT / "benchmarks" / "origin.py", str(port), *arguments], f"origin{port}")
        wait_for(lambda: answers(port))
        return port

    def nginx(self, root: Path, *, log: bool = False) -> int | None:
        """nginx with one worker and sendfile on a directory, with its access log or without it; its port."""
        program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            return None
        port, place = free_port(), self.place
        temporary = " ".join(f"{n}_temp_path {place}/ng;" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        name, logs = ("nginx-log", f"{place}/access.log combined") if log else ("nginx", "off")
        (place / f"{name}.conf").write_text(
            f"daemon off; master_process off; pid {place}/{name}.pid; error_log {place}/nginx.err; worker_processes 1;"
            f"events {{ worker_connections 1024; }} http {{ access_log {logs}; sendfile on; tcp_nopush on; etag on;"
            f"keepalive_requests 1000000000; types {{ image/png png; }} {temporary}"
            f"server {{ listen 127.0.0.1:{port}; root {root}; }} }}"
        )
        self.listeners[port] = self.run([program, "-c", place / f"{name}.conf"], name)
        wait_for(lambda: answers(port))
        return port

    def varnish(self, behind: int) -> int | None:
        """Varnish in front of a server; its port."""
        program = shutil.which("varnishd", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            return None
        port = free_port()
        where = ["-n", self.place / "varnish", "-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{behind}"]
        self.listeners[port] = self.run([program, "-F", *where, "-s", "malloc,1G", "-t", "3600"], "varnish")
        wait_for(lambda: answers(port))
        return port

    def mapproxy(self, behind: int) -> int | None:
        """MapProxy with two workers and a file cache in front of a tile server; its port."""
        programs = Path(os.environ.get("MAPPROXY", PROGRAMS))
        if not (programs / "mapproxy-util").exists() or not (programs / "gunicorn").exists():
            return None
        port = free_port()
        (self.place / "mapproxy.yaml").write_text(
            "services: {tms: {}}\n"
            "layers: [{name: em, title: em, sources: [em]}]\n"
            "caches: {em: {grids: [g], sources: [t], format: image/png, cache: {type: file, directory: mp}}}\n"
            f"sources: {{t: {{type: tile, url: 'http://127.0.0.1:{behind}/hot.png', grid: g}}}}\n"
            "grids: {g: {srs: 'EPSG:3857', tile_size: [512, 512], origin: sw}}\n"
            f"globals: {{cache: {{base_dir: '{self.place}/mp'}}}}\n"
        )
        (self.place / "mapproxy_app.py").write_text(
            "from mapproxy.wsgiapp import make_wsgi_app\n"
            f"application = make_wsgi_app({str(self.place / 'mapproxy.yaml')!r})\n"
        )
        threads = ["-w2", "-k", "gthread", "--threads=32", "--keep-alive=60"]
        command = [programs / "gunicorn", *threads, "-b", f"127.0.0.1:{port}", "mapproxy_app:application"]
        self.listeners[port] = self.run(command, "mapproxy")
        wait_for(lambda: answers(port))
        return port

    def paths(self, name: str, paths: Sequence[str]) -> Path:
        """A script for ``wrk`` that asks for these paths in turn."""
        (self.place / f"{name}.txt").write_text("\n".join(paths))
        script = self.place / f"{name}.lua"
        script.write_text(
            "local paths, n = {}, 0\n"
            f"for line in io.lines('{self.place}/{name}.txt') do paths[#paths + 1] = line end\n"
            "request = function() n = n % #paths + 1; return wrk.format('GET', paths[n]) end\n"
        )
        return script


def _family(pids: set[int]) -> set[int]:
    """Processes, and all that they have spawned."""
    found = set(pids)
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found |= _family(set(map(int, children)))
    return found


def _spent(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answers(port: int) -> bool:
    """Whether there is an HTTP server."""
    try:
        get(port, "/", timeout=5)
    except OSError:
        return False
    return True


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage that is cleared at the end."""
    place = Path(tempfile.mkdtemp(prefix="ocpproxy-bench-"))
    place.chmod(0o755)
    made = Stage(place)
    try:
        yield made
    finally:
        for process in made.running:
            process.terminate()
        for process in made.running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        for call in made.at_the_end:
            call()
        shutil.rmtree(place, ignore_errors=True)


def told(what: str, values: Sequence[float], unit: str, beside: Sequence[float] | None = None, bound: str = "") -> None:
    """Print one line: the median and the range of a figure, and its ratio to another of the same turns."""
    line = f"{what:58} {statistics.median(values):10,.1f} {unit:6} ({min(values):,.1f} to {max(values):,.1f})"
    if beside is not None:
        ratios = [value / other for value, other in zip(values, beside, strict=True)]
        line += f"   ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(line + (f"   asked for: {bound}" if bound else ""), flush=True)
