"""Runs every test with trial, and ends with one plain line of trial's own counts: N passed, N failed, N skipped.

Arguments are passed on to trial; without any it runs all of ``tests``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def counts(summary: str) -> dict[str, int] | None:
    """What trial's last line says: ``PASSED (skips=1, successes=5)`` or ``FAILED (failures=1, ...)``."""
    found = re.search(r"^(?:PASSED|FAILED) *(?:\((.*)\))?\s*\Z", summary.strip(), re.MULTILINE)
    if found is None:
        return None
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", found[1] or "")}


def main() -> int:
    """Run; the exit code is trial's, and never 0 when a count is missing."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "twisted.trial", *(sys.argv[1:] or ["tests"])]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as trial:
        assert trial.stdout is not None
        lines: list[str] = []
        for line in trial.stdout:
            print(line, end="", flush=True)
            lines = [*lines[-20:], line]
    said = counts("".join(lines))
    if said is None:
        print("trial gave no summary")
        return trial.returncode or 1
    passed = said.get("successes", 0) + said.get("expectedFailures", 0)
    failed = said.get("failures", 0) + said.get("errors", 0) + said.get("unexpectedSuccesses", 0)
    skipped = said.get("skips", 0) + said.get("todos", 0)
    ran = re.findall(r"^Ran (\d+) tests", "".join(lines), re.MULTILINE)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    if not ran or int(ran[-1]) > passed + failed + skipped:
        print(f"trial ran {ran[-1:]} tests: some are not counted")
        return 1
    return trial.returncode


if __name__ == "__main__":
    sys.exit(main())
