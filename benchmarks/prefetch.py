"""Prefetch jobs: what viewers notice of them, kills, and the dry run of a large volume.

python -m benchmarks.prefetch [viewers] [kills] [dry]
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.misses import Client, asked, at_rest, gateway_before
from benchmarks.stage import PROGRAMS, ROOT, Stage, quantile, stage, told, wait_for

TURNS = 5
COLD = 40
"""Cold tiles of one turn."""


def command(on: Stage, config: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    line = [sys.executable, "-m", "ocpproxy.cli", *words, "--config", f"{on.place}/{config}.ini"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def job(on: Stage, config: str, number: int) -> dict[str, object]:
    """What the daemon says of a job."""
    found: dict[str, object] = json.loads(command(on, config, "jobs", str(number), "--json").stdout)["job"]
    return found


def viewers(on: Stage) -> None:
    """Cold tiles and hits of one viewer, with a prefetch and without, in turns."""
    port, origin = gateway_before(
        on, "npz", "0.1", admin_listen=f"unix:{on.place}/admin.sock", cache_lookahead="off", cache_memory="0"
    )
    config = f"gateway{origin}"
    client, row = Client(port), 0
    hot = [f"/kat/{z}/39_39_0.png" for z in range(16)]
    for path in hot:
        client.get(path)
    took: dict[tuple[str, bool], list[float]] = {(kind, busy): [] for kind in ("cold", "hit") for busy in (False, True)}

    def measure(busy: bool) -> None:
        nonlocal row
        cold, hits = [], []
        for n in range(COLD):
            cold.append(client.get(f"/kat/2048/{row}_{n}_0.png"))
            for path in hot:
                hits.append(client.get(path))
            time.sleep(0.05)
        row += 1
        took["cold", busy].append(quantile(cold, 0.95) * 1000)
        took["hit", busy].append(quantile(hits, 0.95) * 1000)

    for turn in range(1, TURNS + 1):
        at_rest(port)
        measure(False)
        box = f"0:20480,{512 * turn}:{512 * turn + 512},0:1024"
        if command(on, config, "prefetch", "kat", "--box", box, "--detach").returncode:
            raise SystemExit("the job could not be started")
        before = asked(origin)
        wait_for(lambda: asked(origin) > before + 8)  # noqa: B023
        began = asked(origin), time.perf_counter()
        measure(True)
        rate = (asked(origin) - began[0] - COLD) / (time.perf_counter() - began[1])
        command(on, config, "jobs", "cancel", str(turn))
        print(f"    turn {turn}: the prefetch went on with {rate:.1f} cuboids/s meanwhile", flush=True)
    told("cold tile, alone: p95", took["cold", False], "ms")
    told("cold tile during a prefetch: p95", took["cold", True], "ms", took["cold", False], bound="ratio 1.3")
    told("hit, alone: p95", took["hit", False], "ms")
    told("hit during a prefetch: p95", took["hit", True], "ms", took["hit", False], bound="ratio 1.2")


def kills(on: Stage) -> None:
    """5,000 tiles; daemon and command are killed twice."""
    options = {"admin_listen": f"unix:{on.place}/admin.sock", "upstream_connections": "8"}
    port, origin = gateway_before(on, "npz", "0.1", **options)
    config = f"gateway{origin}"
    box = "0:4096,0:20480,0:16"  # 8 x 40 cuboids of 16 tiles
    words = ["prefetch", "kat", "--box", box, "--config", f"{on.place}/{config}.ini"]
    waiting = subprocess.Popen([sys.executable, "-m", "ocpproxy.cli", *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    for at_least in (80, 200):
        wait_for(lambda: asked(origin) >= at_least)  # noqa: B023
        daemon = on.listeners[port]
        for process in (daemon, waiting):
            process.send_signal(signal.SIGKILL)
            process.wait()
        on.running.remove(daemon)
        port = again(on, config)
    wait_for(lambda: job(on, config, 1)["state"] != "running", 300)
    state, cutouts = job(on, config, 1)["state"], asked(origin)
    client = Client(port)
    for row in range(40):
        for col in range(8):
            for slice_ in range(16):
                client.get(f"/kat/{slice_}/{row}_{col}_0.png")
    misses = asked(origin) - cutouts
    print(f"5,120 tiles, two kills: job {state}, {cutouts} cutouts for 320 cuboids, then {misses} misses", flush=True)
    print(command(on, config, *words[:-2]).stdout.splitlines()[-1])


def again(on: Stage, config: str) -> int:
    """Start a gateway again; return its port."""
    log = on.place / f"{config}.log"
    program = [PROGRAMS / "twistd", "-n", "--pidfile=", "ocpproxy", "--config"]
    process = on.run([*program, on.place / f"{config}.ini"], config)
    wait_for(lambda: re.search(r"answers at http://127.0.0.1:\d+", log.read_text()))
    port = int(re.findall(r"answers at http://127.0.0.1:(\d+)", log.read_text())[-1])
    on.listeners[port] = process
    return port


def dry(on: Stage) -> None:
    """The whole volume of the origin, in three planes."""
    _, origin = gateway_before(on, "npz", "0", admin_listen=f"unix:{on.place}/admin.sock")
    took = []
    for _ in range(TURNS):
        began = time.perf_counter()
        out = command(on, f"gateway{origin}", "prefetch", "kat", "--plane", "xy,xz,yz", "--dry-run", "--json").stdout
        took.append((time.perf_counter() - began) * 1000)
    tiles = json.loads(out.splitlines()[0])["estimate"]["tiles"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import ocpproxy.cli.prefetch"], check=True, cwd=ROOT)
    told(f"dry run of {tiles:,} tiles, the whole command", took, "ms", bound="1,000")
    print(f"    of which Python and imports: {(time.perf_counter() - began) * 1000:.0f} ms")


def main() -> None:
    """Measure what is named, or all."""
    parts: tuple[Callable[[Stage], None], ...] = (viewers, kills, dry)
    for measure in parts:
        if len(sys.argv) < 2 or measure.__name__ in sys.argv[1:]:
            with stage() as on:
                measure(on)


if __name__ == "__main__":
    main()
