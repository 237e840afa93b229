"""What was found, as rows: ours beside a peer, their ratio, and what the ratio was meant to be. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.machine import Machine


class Verdict(StrEnum):
    """What a ratio is worth."""

    AIM = "aim met"
    MUST = "must met"
    BELOW = "below must"
    NONE = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio must be, and what it should be.

    Attributes:
        must: Hold this.
        aim: Better than that.
        smaller: Less is better.
    """

    must: float
    aim: float
    smaller: bool = False

    def judge(self, ratio: float) -> Verdict:
        reached = [limit for limit in (self.aim, self.must) if self._holds(ratio, limit)]
        return Verdict.AIM if self.aim in reached else Verdict.MUST if reached else Verdict.BELOW

    def _holds(self, ratio: float, limit: float) -> bool:
        return ratio <= limit if self.smaller else ratio >= limit

    def __str__(self) -> str:
        sign = "≤" if self.smaller else "≥"
        return f"{sign} {self.must:.2f}, {self.aim:.2f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; `ours` and `peers` hold a figure for each round, measured one after the other.

    Attributes:
        name: What was compared.
        peer: With whom.
        unit: Of the figures.
        target: None where the row is only for information.
        inverse: The ratio is peer ÷ ours: the figures are costs, and the ratio a speed.
        note: What one must know to read it.
    """

    name: str
    peer: str
    unit: str
    ours: tuple[float, ...]
    peers: tuple[float, ...]
    target: Target | None = None
    inverse: bool = False
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratio of each round, lowest first: noise that both had in common drops out."""
        pairs = zip(self.ours, self.peers, strict=True)
        return tuple(sorted(peer / ours if self.inverse else ours / peer for ours, peer in pairs))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> Verdict:
        return self.target.judge(self.ratio) if self.target else Verdict.NONE

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "peer": self.peer,
            "unit": self.unit,
            "ours": list(self.ours),
            "peers": list(self.peers),
            "ratio": self.ratio,
            "ratios": list(self.ratios),
            "must": self.target.must if self.target else None,
            "aim": self.target.aim if self.target else None,
            "verdict": self.verdict.value,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Detail:
    """A table of what the rows were made from."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """What one kind of measurement found.

    Attributes:
        rows: The comparisons.
        detail: What they were made from, to read.
        raw: The same for programs.
    """

    rows: tuple[Row, ...]
    detail: Detail
    raw: Any = field(default=None)


def table(rows: Sequence[Row]) -> Table:
    """The rows, ready to be printed."""
    shown = Table(title="Garrison beside its peers", title_justify="left")
    for heading in ("what", "unit", "ours", "peer", "", "ratio", "range", "must, aim", "verdict", "note"):
        shown.add_column(heading, justify="right" if heading in ("ours", "", "ratio", "range") else "left")
    for row in rows:
        low, high = row.ratios[0], row.ratios[-1]
        shown.add_row(
            row.name,
            row.unit,
            figure(statistics.median(row.ours)),
            row.peer,
            figure(statistics.median(row.peers)),
            f"{row.ratio:.2f}",
            f"{low:.2f} to {high:.2f}",
            str(row.target) if row.target else "",
            row.verdict.value,
            row.note,
        )
    return shown


def markdown(machine: Machine, findings: Sequence[Findings]) -> str:
    """The same for docs/performance.md."""
    lines = ["| what | ours | peer | ratio (range) | must, aim | verdict |", "|---|---|---|---|---|---|"]
    for row in (row for found in findings for row in found.rows):
        ours, peers = (figure(statistics.median(side)) for side in (row.ours, row.peers))
        ratio = f"**{row.ratio:.2f}** ({row.ratios[0]:.2f} to {row.ratios[-1]:.2f})"
        note = f"; {row.note}" if row.note else ""
        cells = (row.name, f"{ours} {row.unit}", f"{row.peer} {peers}", ratio + note, str(row.target or ""))
        lines.append(f"| {' | '.join((*cells, row.verdict.value))} |")
    for detail in (found.detail for found in findings):
        lines += ["", f"{detail.title}:", "", f"| {' | '.join(detail.columns)} |"]
        lines.append("|---" * len(detail.columns) + "|")
        lines += [f"| {' | '.join(line)} |" for line in detail.lines]
    facts = ", ".join(f"{name} {value}" for name, value in machine.as_json().items())
    return "\n".join([*lines, "", f"Machine: {facts}.", ""])


def detail_table(detail: Detail) -> Table:
    """What the rows were made from, ready to be printed."""
    shown = Table(title=detail.title, title_justify="left")
    for number, heading in enumerate(detail.columns):
        shown.add_column(heading, justify="right" if number else "left")
    for line in detail.lines:
        shown.add_row(*line)
    return shown


def show(console: Console, machine: Machine, findings: Sequence[Findings]) -> None:
    """Print everything."""
    for found in findings:
        console.print(detail_table(found.detail))
    console.print(table([row for found in findings for row in found.rows]))
    for name, value in machine.as_json().items():
        console.print(f"  {name:<11}{value}", highlight=False)


def figure(value: float) -> str:
    """A figure with three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
