import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.errors import DataFolderError
from defender.spool import MEMORY_EVENTS, NAME, ROW_OVERHEAD, Bounds, Position, Spool


def fill(spool: Spool, *bodies: bytes) -> list[int | None]:
    return [spool.append(body) for body in bodies]


def test_events_are_numbered_from_one_and_read_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert fill(spool, b"a", b"b", b"c") == [1, 2, 3]
    assert spool.read(1, 10) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert spool.read(2, 1) == [(2, b"b")]
    assert spool.read(4, 10) == []
    assert (spool.position.first, spool.position.next, spool.position.dropped) == (1, 4, 0)
    assert spool.held == 3
    spool.close()


def test_a_read_is_bounded_in_bytes_but_never_stuck(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    fill(spool, b"x" * 100, b"y" * 10, b"z")
    assert spool.read(1, 10, size=11) == [(1, b"x" * 100)]
    assert spool.read(2, 10, size=11) == [(2, b"y" * 10), (3, b"z")]
    spool.close()


def test_the_next_start_goes_on_from_there(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    fill(spool, b"a", b"b")
    spool.acknowledge(spool.position.epoch, 2)
    before = spool.position
    spool.close()
    spool = Spool(tmp_path)
    assert spool.position == before == Position(before.epoch, 3, 3, 0)
    assert spool.append(b"c") == 3
    spool.close()


def test_the_file_is_for_the_owner_alone(tmp_path: Path) -> None:
    Spool(tmp_path).close()
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_an_acknowledgement_of_another_epoch_means_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    fill(spool, b"a")
    spool.acknowledge("another", 1)
    assert spool.held == 1
    spool.acknowledge(spool.position.epoch, 1)
    assert spool.held == 0
    spool.close()


def test_beyond_its_bounds_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Bounds(size=1 << 20, events=3))
    fill(spool, b"a", b"b", b"c", b"d", b"e")
    assert spool.read(1, 10) == [(3, b"c"), (4, b"d"), (5, b"e")]
    assert spool.position.dropped == 2
    spool.close()
    spool = Spool(tmp_path, Bounds(size=2 * (ROW_OVERHEAD + 1), events=100))
    assert spool.append(b"f") == 6
    assert spool.read(1, 10) == [(5, b"e"), (6, b"f")]
    assert spool.position.dropped == 4
    spool.close()


def test_the_newest_stays_even_if_it_alone_is_too_much(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Bounds(size=10, events=3))
    fill(spool, b"a", b"x" * 100)
    assert spool.read(1, 10) == [(2, b"x" * 100)]
    spool.close()


def test_a_lost_file_begins_a_new_epoch(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    epoch = spool.position.epoch
    spool.close()
    (tmp_path / NAME).unlink()
    spool = Spool(tmp_path)
    assert spool.position.epoch != epoch
    spool.close()


def test_a_file_older_than_what_the_console_saw_is_renumbered(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Bounds(events=4))
    fill(spool, b"a", b"b", b"c", b"d", b"e")
    epoch = spool.position.epoch
    spool.renew()
    assert spool.position == Position(spool.position.epoch, 1, 5, 1)
    assert spool.position.epoch != epoch
    assert spool.read(1, 10) == [(1, b"b"), (2, b"c"), (3, b"d"), (4, b"e")]
    spool.close()


@pytest.mark.parametrize(
    "content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 8000], ids=["text", "torn"]
)
def test_a_corrupt_file_is_set_aside_and_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(content)
    spool = Spool(tmp_path)
    assert spool.append(b"a") == 1
    spool.close()
    assert (tmp_path / f"{NAME}.corrupt").read_bytes() == content
    assert "a new one begins" in caplog.text


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version=99",
        "DROP TABLE state",
        "DELETE FROM state",
        "DROP TABLE events",
    ],
)
def test_a_database_that_is_no_spool_of_ours_is_set_aside(tmp_path: Path, statement: str) -> None:
    Spool(tmp_path).close()
    other = sqlite3.connect(tmp_path / NAME)
    other.execute(statement)
    other.commit()
    other.close()
    spool = Spool(tmp_path)
    assert spool.append(b"a") == 1
    spool.close()
    assert (tmp_path / f"{NAME}.corrupt").exists()


def test_pages_damaged_while_running_cost_the_events_on_them_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path)
    fill(spool, *[b"x" * 500] * 100)
    epoch = spool.position.epoch
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = (tmp_path / NAME).stat().st_size
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    spool._db.execute("PRAGMA shrink_memory").close()
    read = spool.read(1, 100)
    appended = spool.append(b"after")
    assert appended is not None
    assert (spool.position.epoch != epoch) or len(read) == 100
    if spool.position.epoch != epoch:
        assert spool.read(1, 10) == [(1, b"after")]
        assert "a new one begins" in caplog.text
    spool.close()
    again = Spool(tmp_path)
    assert again.append(b"and after") is not None
    again.close()


def test_a_folder_in_its_place_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(DataFolderError, match="cannot be opened"):
        Spool(tmp_path)


FULL_DISK = """
import logging, pathlib, resource, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
from defender.spool import MEMORY_EVENTS, Spool
folder = pathlib.Path(sys.argv[1])
spool = Spool(folder)
for _ in range(3): assert spool.append(b"x" * 3000)
size = max(path.stat().st_size for path in folder.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
numbers = [spool.append(b"%d " % n + b"y" * 3000) for n in range(int(sys.argv[2]))]
assert numbers[-1] is None, numbers
spool.acknowledge(spool.position.epoch, 1)
print("waiting", spool.waiting, "dropped", spool.position.dropped, "next", spool.position.next)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
number = spool.append(b"last")
bodies = [body.split()[0] for _, body in spool.read(4, 1000)]
print("then", number, spool.waiting, bodies[0].decode(), bodies[-1].decode(), len(bodies))
spool.close()
"""


@pytest.mark.parametrize("events", [20, MEMORY_EVENTS + 50])
def test_a_full_disk_keeps_events_in_memory_and_says_so_once(tmp_path: Path, events: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path, str(events)],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    during, after = (line.split() for line in result.stdout.splitlines())
    waiting, dropped, following = int(during[1]), int(during[3]), int(during[5])
    # A last page of the WAL may have taken one or two.
    assert waiting + dropped + (following - 4) == events
    assert waiting <= MEMORY_EVENTS
    assert bool(dropped) == (events > MEMORY_EVENTS)
    # The event that made room for itself may have pushed one more out.
    number, left, last = int(after[1]), int(after[2]), after[4]
    assert (left, last) == (0, "last")
    assert number == following + min(waiting + 1, MEMORY_EVENTS) - 1
    assert result.stderr.count("cannot be written") == 1
    assert result.stderr.count("can be written again") == 1


APPENDER = """
import pathlib, sys
from defender.spool import Spool
spool = Spool(pathlib.Path(sys.argv[1]))
while True:
    number = spool.append(b"%d" % spool.position.next)
    sys.stdout.write(f"{spool.position.epoch} {number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("lines", [1, 40, 200])
def test_kill_loses_nothing_that_was_appended(tmp_path: Path, lines: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", APPENDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    epoch, last = said[-1].split() if said[-1].endswith("\n") else said[-2].split()
    spool = Spool(tmp_path)
    assert spool.position.epoch == epoch
    held = dict(spool.read(1, 1_000_000, size=1 << 30))
    assert set(range(1, int(last) + 1)) <= set(held)
    assert all(body == b"%d" % number for number, body in held.items())
    assert spool.append(b"next") == max(held) + 1
    spool.close()


def test_what_waits_is_written_at_the_end_or_said_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path)
    spool._db.execute("PRAGMA query_only=ON").close()
    assert spool.append(b"a") is None
    with caplog.at_level(logging.ERROR):
        spool.close()
    assert "1 events were never written" in caplog.text


class SpoolMachine(RuleBasedStateMachine):
    """A spool beside its model: a list of numbered bodies. Reopening must change nothing."""

    bounds = Bounds(size=600, events=6)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.spool = Spool(Path(self.folder.name), self.bounds)
        self.model: dict[int, bytes] = {}
        self.next = 1
        self.dropped = 0
        self.epochs = [self.spool.position.epoch]

    @initialize()
    def start(self) -> None:
        assert self.spool.position == Position(self.epochs[0], 1, 1, 0)

    def size(self) -> int:
        return sum(len(body) + ROW_OVERHEAD for body in self.model.values())

    @rule(body=st.binary(max_size=700))
    def append(self, body: bytes) -> None:
        assert self.spool.append(body) == self.next
        self.model[self.next] = body
        self.next += 1
        while len(self.model) > 1 and (
            len(self.model) > self.bounds.events or self.size() > self.bounds.size
        ):
            del self.model[min(self.model)]
            self.dropped += 1

    @rule(through=st.integers(0, 60), known=st.booleans())
    def acknowledge(self, through: int, known: bool) -> None:
        self.spool.acknowledge(self.epochs[-1] if known else "unknown", through)
        if known:
            self.model = {number: body for number, body in self.model.items() if number > through}

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.spool = Spool(Path(self.folder.name), self.bounds)

    @rule()
    def crash(self) -> None:
        """As after kill -9: the WAL stays, nobody closes. The copy stands for the disk at that instant."""
        copy = tempfile.TemporaryDirectory()
        for path in Path(self.folder.name).iterdir():
            (Path(copy.name) / path.name).write_bytes(path.read_bytes())
        self.spool._db.close()
        self.folder.cleanup()
        self.folder = copy
        self.spool = Spool(Path(copy.name), self.bounds)

    @rule()
    def renew(self) -> None:
        self.spool.renew()
        self.model = dict(enumerate(self.model.values(), 1))
        self.next = len(self.model) + 1
        assert self.spool.position.epoch not in self.epochs
        self.epochs.append(self.spool.position.epoch)

    @rule(first=st.integers(0, 60), count=st.integers(0, 10))
    def read(self, first: int, count: int) -> None:
        expected = [(number, body) for number, body in self.model.items() if number >= first][:count]
        assert self.spool.read(first, count) == expected

    @invariant()
    def position_is_the_models(self) -> None:
        first = min(self.model, default=self.next)
        assert self.spool.position == Position(self.epochs[-1], first, self.next, self.dropped)
        assert self.spool.held == len(self.model)
        assert self.spool._size == self.size()

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()


SpoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_a_spool_is_its_model = SpoolMachine.TestCase


def test_nothing_is_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(3):
        Spool(tmp_path).close()
    assert count() == before


def test_without_a_place_for_a_new_file_events_live_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    spool = Spool(folder)
    epoch = spool.position.epoch
    shutil.rmtree(folder)
    spool._replace(sqlite3.DatabaseError("database disk image is malformed"))
    # Numbers begin anew, so the epoch has to.
    assert spool.position.epoch != epoch
    assert spool.append(b"a") == 1
    assert spool.read(1, 10) == [(1, b"a")]
    assert "kept in memory only" in caplog.text
    spool.close()
