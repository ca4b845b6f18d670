"""What is wrong with a configuration file."""

from __future__ import annotations

from dataclasses import dataclass

NOT_SHOWN = "(not shown)"
"""Stands for the value of a secret."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a configuration file. Its text may be shown to the administrator: it holds no secret."""

    section: str
    key: str
    value: str
    expected: str = ""
    """What the value should be."""
    problem: str = ""
    """What is wrong, as a sentence, where no value would be right."""

    def __str__(self) -> str:
        return f"[{self.section}] {self.key} = {self.value!r}: {self.problem or f'expected {self.expected}'}"


class BadConfiguration(ValueError):
    """The file cannot be used. `faults` lists everything that is wrong with it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults
