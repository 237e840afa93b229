import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol.messages import (
    MAX_LINES,
    MAX_MESSAGE_BYTES,
    CommandResult,
    Direction,
    Fields,
    decode,
    encode,
)
from common.protocol.orders import (
    MAX_LINE,
    UNSUPPORTED,
    CommandName,
    FetchLogs,
    Order,
    ReportState,
    Restart,
    log_lines,
    read_order,
)


@pytest.mark.parametrize(
    ("name", "arguments", "order"),
    [
        (CommandName.RESTART, {}, Restart()),
        (CommandName.REPORT_STATE, {}, ReportState()),
        (CommandName.FETCH_LOGS, {}, FetchLogs(100)),
        (CommandName.FETCH_LOGS, {"lines": 1}, FetchLogs(1)),
        ("fetchLogs", {"lines": MAX_LINES, "added": "later"}, FetchLogs(MAX_LINES)),
        ("restart", {"added": "later"}, Restart()),
    ],
)
def test_orders(name: str, arguments: Fields, order: Order) -> None:
    assert read_order(name, arguments) == order


def test_what_is_not_known_is_unsupported() -> None:
    assert read_order("selfDestruct", {}) == UNSUPPORTED
    assert read_order("Restart", {}) == UNSUPPORTED


@pytest.mark.parametrize("lines", [0, -1, MAX_LINES + 1, 1.0, "1", True, None, [1]])
def test_a_number_of_lines_is_one(lines: object) -> None:
    assert read_order("fetchLogs", {"lines": lines}) == "lines: 1 to 2000"  # type: ignore[dict-item]


def test_every_command_has_an_order() -> None:
    assert all(not isinstance(read_order(name, {}), str) for name in CommandName)


def lines_of(value: Fields) -> list[object]:
    lines = value["lines"]
    assert isinstance(lines, list)
    return list(lines)


def test_lines_that_fit_are_all_there() -> None:
    assert log_lines(["one", "two"]) == {"lines": ["one", "two"]}
    assert log_lines([]) == {"lines": []}


def test_the_newest_lines_are_kept() -> None:
    lines = lines_of(log_lines(f"line {number}" for number in range(MAX_LINES + 10)))
    assert len(lines) == MAX_LINES
    assert lines[-1] == f"line {MAX_LINES + 9}"


def test_a_long_line_is_cut() -> None:
    assert lines_of(log_lines(["x" * 5000])) == ["x" * MAX_LINE]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.builds(
            lambda text, times: text * times,
            st.text(alphabet=st.characters() | st.sampled_from('\0\x01\x1f"\\\ud800\U0001f600'), max_size=8),
            st.integers(1, 3000),
        ),
        max_size=60,
    )
)
def test_whatever_a_log_holds_fits_a_message(lines: list[str]) -> None:
    data = encode(CommandResult("c-1", ok=True, value=log_lines(lines)))
    assert len(data) <= MAX_MESSAGE_BYTES
    assert isinstance(decode(data, Direction.FROM_DEFENDER), CommandResult)
