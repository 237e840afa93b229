"""`python -m tests.bench`: measure, print the table, write the figures down."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.bench import drain, handshakes, memory, swaps, watching
from tests.bench.errors import BenchError
from tests.bench.machine import Cores, Machine, look, raise_file_limit
from tests.bench.report import Findings, markdown, show
from tests.bench.scale import FULL, QUICK, Scale
from tests.bench.servers import make_template
from tests.bench.workshop import FOLDER, Workshop, build_peers

SPARE_FILES: Final = 512
MEASUREMENTS: Final[dict[str, Callable[[Workshop, Scale], Findings]]] = {
    "handshakes": handshakes.measure,
    "memory": memory.measure,
    "swaps": swaps.measure,
    "watching": watching.measure,
    "drain": drain.measure,
}


def main() -> None:
    options = _parse()
    scale = _scale(options)
    # Whoever ends us ends what we started: the with blocks see to it.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    raise_file_limit(scale.idle + SPARE_FILES)
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    workshop = Workshop(FOLDER, Cores.of_this_process())
    try:
        machine, findings = _measure(workshop, scale, options.only or list(MEASUREMENTS))
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    show(Console(width=None if sys.stdout.isatty() else 150), machine, findings)
    write(FOLDER / "results.json", machine, scale, findings)
    (FOLDER / "results.md").write_text(markdown(machine, findings), encoding="utf-8")


def _scale(options: argparse.Namespace) -> Scale:
    base = QUICK if options.quick else FULL
    return replace(base, rounds=options.rounds or base.rounds, idle=options.idle or base.idle)


def _measure(workshop: Workshop, scale: Scale, names: Sequence[str]) -> tuple[Machine, list[Findings]]:
    scale.say("building the peers")
    build_peers(workshop)
    make_template(workshop)
    if workshop.cores.shared:
        scale.say("there is one core only: servers and load share it, and rates mean little")
    return look(), [MEASUREMENTS[name](workshop, scale) for name in names]


def write(path: Path, machine: Machine, scale: Scale, findings: Sequence[Findings]) -> None:
    """Everything that was found, for programs."""
    found = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.as_json(),
        "scale": {"rounds": scale.rounds, "seconds": scale.seconds, "idle": scale.idle},
        "rows": [row.as_json() for each in findings for row in each.rows],
        "samples": [each.raw for each in findings],
    }
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Garrison beside its peers.")
    parser.add_argument(
        "--quick", action="store_true", help="short rounds, fewer connections: a look, no proof"
    )
    parser.add_argument("--rounds", type=int, help="of each comparison")
    parser.add_argument("--idle", type=int, help="connections held for the memory rows")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="measure only this; repeatable")
    return parser.parse_args()


if __name__ == "__main__":
    main()
