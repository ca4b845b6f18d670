"""Run every test with trial, and end with one plain line of trial's own counts: N passed, N failed, N skipped.

Arguments are passed on to trial; without any, all of ``tests`` run in parallel. Trial hands the tests out one by one in
the order of its arguments, so the modules whose tests take long come first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONG = (
    *("test_field", "test_prefetch"),
    *("test_generations", "test_formats", "test_storage", "test_daemon", "test_views", "test_freshness"),
    *("test_availability", "test_hot_path", "test_catmaid", "test_channel", "test_upstream_arrays", "test_upstream"),
)
"""Modules with tests of many seconds."""


def arguments() -> list[str]:
    """Return trial's arguments for all tests: two processes per core, for most tests wait for other processes."""
    names = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    ordered = [*(name for name in LONG if name in names), *sorted(names.difference(LONG))]
    return [f"-j{2 * (os.cpu_count() or 1)}", *(f"tests.{name}" for name in ordered)]


def counts(summary: str) -> dict[str, int] | None:
    """Parse trial's last line: ``PASSED (skips=1, successes=5)`` or ``FAILED (failures=1, ...)``."""
    found = re.search(r"^(?:PASSED|FAILED) *(?:\((.*)\))?\s*\Z", summary.strip(), re.MULTILINE)
    if found is None:
        return None
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", found[1] or "")}


def main() -> int:
    """Run trial, and return its exit code, but never 0 when a count is missing."""
    command = [sys.executable, "-m", "twisted.trial", *(sys.argv[1:] or arguments())]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as trial:
        assert trial.stdout is not None
        lines: list[str] = []
        for line in trial.stdout:
            print(line, end="", flush=True)
            lines = [*lines[-20:], line]
    found = counts("".join(lines))
    if found is None:
        print("trial gave no summary")
        return trial.returncode or 1
    passed = found.get("successes", 0) + found.get("expectedFailures", 0)
    failed = found.get("failures", 0) + found.get("errors", 0) + found.get("unexpectedSuccesses", 0)
    skipped = found.get("skips", 0) + found.get("todos", 0)
    ran = re.findall(r"^Ran (\d+) tests", "".join(lines), re.MULTILINE)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    if not ran or int(ran[-1]) > passed + failed + skipped:
        print(f"trial ran {ran[-1:]} tests: some are not counted")
        return 1
    return trial.returncode


if __name__ == "__main__":
    sys.exit(main())
