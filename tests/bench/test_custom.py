"""The operator's hands and eyes: layouts, logs, and a real Console that follows every way of replacing."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.certificates import FILES, Role
from tests.bench.custom import (
    Log,
    Swapper,
    Volume,
    all_files,
    client_folder,
    custom_console,
    custom_folder,
    without_events,
)
from tests.bench.errors import BenchError
from tests.bench.probes import Channel
from tests.bench.processes import running
from tests.bench.workshop import Workshop
from tests.operator import Operator

# The tools of the slow proofs: proved where those are.
pytestmark = pytest.mark.slow


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("..")}


def test_a_volume_shows_all_its_files_by_one_rename(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    (tmp_path / "one").write_bytes(b"plain")
    volume.publish({"one": b"1", "two": b"2"})
    links = {path.name: path.readlink() for path in tmp_path.iterdir() if path.is_symlink()}
    assert links == {
        "one": Path("..data/one"),
        "two": Path("..data/two"),
        "..data": Path("..version_1"),
    }
    volume.publish({"two": b"3"})
    assert contents(tmp_path) == {"one": b"1", "two": b"3"}
    volume.publish({"two": b"4"})
    assert contents(tmp_path) == {"one": b"1", "two": b"4"}
    # The one before stays for those who are reading it, older ones go.
    assert {path.name for path in tmp_path.glob("..version_*")} == {"..version_2", "..version_3"}


def test_a_log_is_read_from_where_one_has_come(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import sys; print('port 7', file=sys.stderr, flush=True); input()"
    with running("program", (sys.executable, "-c", code), core=0, log=log) as program:
        found = Log(log, program)
        assert found.wait(r"port (\d)")[1] == "7"
        with pytest.raises(BenchError, match=r"(?s)program: no line like 'port'.*port 7"):
            found.wait("port", after=found.end, seconds=0.05)
        assert found.text(5) == "7\n"


@pytest.mark.skipif(without_events() is None, reason="user namespaces are not permitted here")
def test_without_events_no_directory_can_be_watched(tmp_path: Path) -> None:
    code = (
        f"import watchfiles; next(watchfiles.watch({str(tmp_path)!r}, rust_timeout=1, yield_on_timeout=True))"
    )
    command = (sys.executable, "-c", code)
    for prefix, code_of_exit in (((), 0), (without_events() or (), 1)):
        done = subprocess.run((*prefix, *command), capture_output=True, check=False, timeout=30)
        assert done.returncode == code_of_exit, done.stderr


def test_a_console_follows_an_operator_in_every_way(bare_workshop: Workshop) -> None:
    folder = bare_workshop.run_folder("console")
    operator = Operator(custom_folder(folder))
    operator.copy(all_files(operator))
    with custom_console(bare_workshop, folder) as console:
        swapper = Swapper(console, operator)
        for replace in (operator.move, operator.copy, Volume(operator.directory).publish):
            swapper.swap(tuple(Channel), replace)
        swapper.swap((Channel.HTTPS,), operator.move)
        assert swapper.rotated() == 7
    assert {channel: len(swaps) for channel, swaps in swapper.swaps.items()} == {"https": 4, "websocket": 3}
    for swap in swapper.swaps[Channel.HTTPS]:
        assert swap.touched < swap.complete < swap.in_force


def test_a_swap_that_is_refused_is_no_swap(bare_workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.custom.SWAP_SECONDS", 1.0)
    folder = bare_workshop.run_folder("console")
    operator = Operator(custom_folder(folder))
    operator.copy(all_files(operator))
    with custom_console(bare_workshop, folder) as console:
        swapper = Swapper(console, operator)

        def forget_the_key(files: object) -> None:
            name = FILES[Role.HTTPS_SERVER].certificate
            operator.move({name: operator.pki.files(Role.HTTPS_SERVER)[name]})

        with pytest.raises(BenchError, match="no line like"):
            swapper.swap((Channel.HTTPS,), forget_the_key)
        assert swapper.rotated() == 0


def test_clients_have_a_set_and_the_ca(tmp_path: Path) -> None:
    folder = client_folder(Operator(tmp_path), tmp_path / "clients")
    assert sorted(contents(folder)) == sorted(FILES[Role.DEFENDER_CLIENT].all)
