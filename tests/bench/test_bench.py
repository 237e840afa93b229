"""The programs of the bench together, in small: counts and not times."""

import shutil
from pathlib import Path

import pytest

from tests.bench.conftest import mint_into
from tests.bench.defenders import defenders
from tests.bench.driver import holding, measure_rate
from tests.bench.machine import Cores
from tests.bench.memory import read
from tests.bench.servers import Depth, gorilla, lean, nginx
from tests.bench.workshop import GO_PATH, Workshop, build_peers, ensure_identities

DEFENDERS = 20
needs_go = pytest.mark.skipif(
    shutil.which("go") is None or not Path(GO_PATH, "src/github.com/gorilla/websocket").exists(),
    reason="needs the Debian packages golang-go and golang-github-gorilla-websocket-dev",
)
needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="needs the Debian package nginx-light"
)


@pytest.fixture
def workshop(tmp_path: Path, certificates: Path) -> Workshop:
    made = Workshop(tmp_path, Cores.of_this_process())
    made.certificates.symlink_to(certificates)
    ensure_identities(made.identities, DEFENDERS)
    return made


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The Go programs, built once."""
    made = Workshop(tmp_path_factory.mktemp("peers"), Cores.of_this_process())
    build_peers(made)
    return made


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_load_generator_fills_the_stand_in(workshop: Workshop, loop: str) -> None:
    with lean(loop)(workshop) as server, defenders(workshop, server, DEFENDERS) as load:
        load.close_input()
        found = load.answer(20)
    assert (found["welcomed"], found["failed"], found["lost"]) == (DEFENDERS, {}, {})


@needs_go
@pytest.mark.parametrize("depth", [Depth.UPGRADE, Depth.HELLO])
def test_a_foreign_defender_is_welcomed(workshop: Workshop, programs: Workshop, depth: Depth) -> None:
    workshop.driver.symlink_to(programs.driver)
    with lean("asyncio")(workshop) as server:
        found = measure_rate(workshop, server, depth, seconds=0.5, warm=0.1, concurrency=4)
    assert found.opened > 0
    assert found.failed == {}


@needs_go
def test_a_foreign_defender_that_we_do_not_know_is_refused(workshop: Workshop, programs: Workshop) -> None:
    """The negative control: its certificate is another CA's, though it trusts the server's."""
    workshop.driver.symlink_to(programs.driver)
    with lean("asyncio")(workshop) as server:
        stranger = Workshop(workshop.folder / "stranger", workshop.cores)
        stranger.run_folder("x")
        stranger.driver.symlink_to(programs.driver)
        ensure_identities(stranger.identities, DEFENDERS)
        stranger.certificates.mkdir()
        mint_into(stranger.certificates)
        shutil.copy(workshop.certificates / "defender-ca.pem", stranger.certificates / "defender-ca.pem")
        found = measure_rate(stranger, server, Depth.HELLO, seconds=0.5, warm=0.1, concurrency=2)
    assert found.opened == 0
    assert any("unknown certificate authority" in reason for reason in found.failed)


@needs_go
def test_the_peer_gorilla_echoes_upgrades_and_collects(workshop: Workshop, programs: Workshop) -> None:
    workshop.driver.symlink_to(programs.driver)
    workshop.gorilla.symlink_to(programs.gorilla)
    with gorilla(workshop) as server:
        reading = read(workshop, server, DEFENDERS)
        found = measure_rate(workshop, server, Depth.UPGRADE, seconds=0.3, warm=0.1, concurrency=4)
    assert reading.count == DEFENDERS
    assert reading.before > 0
    assert found.opened > 0


@needs_go
@needs_nginx
def test_the_peer_nginx_answers_and_holds(workshop: Workshop, programs: Workshop) -> None:
    workshop.driver.symlink_to(programs.driver)
    with nginx(workshop) as server:
        found = measure_rate(workshop, server, Depth.HTTP, seconds=0.3, warm=0.1, concurrency=4)
        with holding(workshop, server, Depth.HTTP, DEFENDERS):
            assert server.program.cpu_seconds() > 0
    assert found.opened > 0
    assert found.failed == {}
