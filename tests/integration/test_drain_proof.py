"""A thousand Defenders are moved to other certificates: none is lost, every event arrives exactly once."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.certificates import Role
from tests.bench.commander import commanding, known
from tests.bench.custom import CustomConsole, Swapper, all_files, client_folder, custom_console, custom_folder
from tests.bench.defenders import defenders
from tests.bench.ledger import accounts, wrong
from tests.bench.machine import Cores
from tests.bench.probes import Channel
from tests.bench.processes import Program, wait_for_status
from tests.bench.workshop import Workshop
from tests.operator import Operator

DEFENDERS = 1000
EVENTS = ("--events-per-minute", "20", "--settle", "60")
PATIENCE = 120.0
DRAIN_DEADLINE = 5.0


@dataclass
class Moved:
    """A Console and its Defenders while their certificates change; `told` is the generator's last word."""

    console: CustomConsole
    swapper: Swapper
    load: Program
    told: dict[str, Any]

    def swap(self) -> str:
        """Put a new set of the Defenders' port in place; its leaf."""
        self.swapper.swap((Channel.WEBSOCKET,), self.swapper.operator.move)
        return self.swapper.swaps[Channel.WEBSOCKET][-1].leaf

    def all_on(self, leaf: str) -> dict[str, Any]:
        """Wait until all Defenders are connected by this certificate, and by nothing else."""
        moved = {leaf: DEFENDERS}
        return wait_for_status(self.load, lambda s: s["leaves"] == moved and not s["leaving"], PATIENCE)


@contextlib.contextmanager
def moving(
    tmp_path: Path, operator: Operator, clients: Path | None, *more: str | Path, **settings: str
) -> Iterator[Moved]:
    """Run them; at the end, compare what was posted with what is stored, and see that nobody was lost."""
    workshop = Workshop(tmp_path, Cores.of_this_process())
    folder, ledger = tmp_path / "console", tmp_path / "ledger"
    with custom_console(workshop, folder, **settings) as console:
        shown = clients or console.data / "certificates"
        options = (*EVENTS, "--ledger", ledger, *more)
        with defenders(workshop, console.server, DEFENDERS, *options, certificates=shown) as load:
            moved = Moved(console, Swapper(console, operator), load, {})
            yield moved
            load.close_input()
            moved.told = load.answer(PATIENCE)
        assert not console.server.program.ended()
    told = moved.told
    assert told["lost"] == {}
    assert told["overstayed"] == 0
    assert told["created"] == told["acknowledged"] > 0
    assert wrong(accounts(ledger, console.data)) == []
    log = console.log.text()
    assert "Traceback" not in log
    # Neither a renewed leaf nor another source takes anybody's trust away.
    assert "end-removed-trust" not in log


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    (tmp_path / "run").mkdir()
    return Operator(custom_folder(tmp_path / "console"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_renewed_certificate_moves_all_and_loses_nothing(tmp_path: Path, operator: Operator) -> None:
    """Commands are under way all the while; a second swap comes in the middle of the first one's drain."""
    operator.copy(all_files(operator))
    with moving(tmp_path, operator, client_folder(operator, tmp_path / "clients")) as moved:
        with commanding(moved.console.data, known(moved.console.data)) as commander:
            moved.swap()
            wait_for_status(moved.load, lambda s: s["moved"] >= DEFENDERS // 4, PATIENCE)
            moved.all_on(moved.swap())
        assert commander.failed == {}
        assert commander.answered > 0
    told = moved.told
    assert told["failed"] == {}
    assert (told["commands"], told["repeated"]) == (commander.answered, 0)
    assert told["moved"] >= DEFENDERS


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_console_that_gets_its_files_first_cuts_nobody_off(tmp_path: Path, operator: Operator) -> None:
    """From generated to custom; the Defenders' files come after the drain's deadline."""
    volume = tmp_path / "defenders"
    volume.mkdir()
    deadline = {"GARRISON_DRAIN_DEADLINE": f"{DRAIN_DEADLINE:g}s"}
    with moving(tmp_path, operator, None, "--custom", volume, **deadline) as moved:
        leaf = moved.swap()
        asked = wait_for_status(moved.load, lambda s: s["asked"] >= DEFENDERS, PATIENCE)
        over = asked["now"] + 2 * DRAIN_DEADLINE
        later = wait_for_status(moved.load, lambda s: s["now"] > over, PATIENCE)
        assert (later["connected"], later["lost"], later["moved"]) == (DEFENDERS, {}, 0)
        assert leaf not in later["leaves"]
        operator.copy(operator.pki.files(Role.DEFENDER_CLIENT), to=volume)
        assert moved.all_on(leaf)["newest"] == DEFENDERS


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_defenders_that_get_their_files_first_are_not_cut_off(tmp_path: Path, operator: Operator) -> None:
    volume = tmp_path / "defenders"
    volume.mkdir()
    with moving(tmp_path, operator, None, "--custom", volume) as moved:
        operator.copy(operator.pki.files(Role.DEFENDER_CLIENT), to=volume)
        tried = wait_for_status(moved.load, lambda s: sum(s["failed"].values()) >= DEFENDERS, PATIENCE)
        assert (tried["connected"], tried["lost"], tried["moved"]) == (DEFENDERS, {}, 0)
        assert moved.all_on(moved.swap())["newest"] == DEFENDERS
