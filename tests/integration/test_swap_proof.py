"""Certificates are swapped 200 times under load, and nobody who connects notices."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.bench.custom import (
    Replace,
    Swapper,
    Volume,
    all_files,
    ca_file,
    client_folder,
    custom_console,
    custom_folder,
)
from tests.bench.defenders import defenders
from tests.bench.ledger import accounts, wrong
from tests.bench.machine import Cores
from tests.bench.prober import attempts, probing
from tests.bench.probes import Attempt, Channel, Timeline, failures, strays
from tests.bench.processes import wait_for_status
from tests.bench.workshop import Workshop
from tests.operator import Operator

SWAPS = 200
DEFENDERS = 40
LINKED_FROM = 140
"""From this swap on, the directory is laid out as a Kubernetes volume."""
PAUSE = 0.4
"""Longer than the watcher takes half a copy for a whole one."""

BOTH = (Channel.HTTPS, Channel.WEBSOCKET)
TURNS = (BOTH, BOTH, (Channel.HTTPS,), (Channel.WEBSOCKET,))


class Hands:
    """The ways in which operators replace files, in turn."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._volume = Volume(operator.directory)

    def way(self, number: int) -> Replace:
        if number >= LINKED_FROM:
            return self._volume.publish
        if number % 10 == 9:
            return self._copy_slowly
        # Not by 2, so that each way meets each turn.
        return (self._operator.move, self._operator.copy, self._operator.move)[number % 3]

    def _copy_slowly(self, files: Mapping[str, bytes]) -> None:
        *most, key = files
        self._operator.copy({name: files[name] for name in most})
        time.sleep(PAUSE)
        self._operator.copy({key: files[key]})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_200_swaps_under_load_refuse_reset_and_hang_nobody(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, Cores.of_this_process())
    folder, record, ledger = workshop.run_folder("console"), tmp_path / "record", tmp_path / "ledger"
    operator = Operator(custom_folder(folder))
    clients = client_folder(operator, tmp_path / "clients")
    first = all_files(operator)
    operator.copy(first)
    more = ("--events-per-minute", "120", "--settle", "30", "--ledger", ledger)
    with custom_console(workshop, folder) as console:
        swapper = Swapper(console, operator)
        with (
            defenders(workshop, console.server, DEFENDERS, *more, certificates=clients) as load,
            probing(
                workshop,
                console.ports,
                ca=ca_file(clients),
                certificates=clients,
                record=record,
                threads=3,
                pause=1.0,
            ) as prober,
        ):
            hands = Hands(operator)
            for number in range(SWAPS):
                swapper.swap(TURNS[number % len(TURNS)], hands.way(number))
            newest = swapper.swaps[Channel.WEBSOCKET][-1].leaf
            wait_for_status(load, lambda s: s["leaves"] == {newest: DEFENDERS} and not s["leaving"], 90)
            prober.close_input()
            prober.answer(30)
            load.close_input()
            told = load.answer(60)
        assert console.server.program.ended() is False
        rotated, log = swapper.rotated(), console.log.text()

    found = attempts(record)
    assert rotated == sum(len(swaps) for swaps in swapper.swaps.values()) == SWAPS * 6 // 4
    assert failures(found) == []
    for channel in Channel:
        at_first = swapper.leaf(channel, first)
        timeline = Timeline(at_first, tuple(swapper.swaps[channel]))
        there = [attempt for attempt in found if attempt.channel is channel]
        assert list(strays(there, timeline))[:3] == []
        assert _met_all(there, timeline)
    # The Defenders were drained after each swap, mostly before the drain before had ended.
    assert (told["lost"], told["failed"]) == ({}, {})
    assert told["moved"] >= DEFENDERS
    assert told["created"] == told["acknowledged"] > 0
    assert wrong(accounts(ledger, console.data)) == []
    assert "Traceback" not in log
    # All sets are of one CA: nobody's trust was ever removed.
    assert "end-removed-trust" not in log


def _met_all(there: Sequence[Attempt], timeline: Timeline) -> bool:
    """The proof has seen something: each set was met by somebody."""
    return {swap.leaf for swap in timeline.swaps} <= {attempt.leaf for attempt in there}
