"""The figures' arithmetic: ratios within rounds, and what they are worth."""

import json

import pytest
from rich.console import Console

from tests.bench.machine import look
from tests.bench.report import Detail, Findings, Row, Target, Verdict, figure, markdown, show

MACHINE = look()
RATE = Row("handshakes", "nginx", "1/s", ours=(60, 90, 70), peers=(100, 100, 100), target=Target(0.65, 0.80))


def test_a_row_compares_within_each_round() -> None:
    assert RATE.ratios == (0.6, 0.7, 0.9)
    assert RATE.ratio == 0.7


def test_a_cost_is_compared_the_other_way_round() -> None:
    row = Row("handshakes", "nginx", "µs CPU each", ours=(200, 100), peers=(100, 100), inverse=True)
    assert row.ratios == (0.5, 1.0)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (0.64, Verdict.BELOW),
        (0.65, Verdict.MUST),
        (0.79, Verdict.MUST),
        (0.80, Verdict.AIM),
        (2, Verdict.AIM),
    ],
)
def test_more_is_better(ratio: float, verdict: Verdict) -> None:
    assert Target(0.65, 0.80).judge(ratio) is verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (0.66, Verdict.BELOW),
        (0.65, Verdict.MUST),
        (0.51, Verdict.MUST),
        (0.50, Verdict.AIM),
        (0.1, Verdict.AIM),
    ],
)
def test_less_is_better(ratio: float, verdict: Verdict) -> None:
    assert Target(0.65, 0.50, smaller=True).judge(ratio) is verdict


def test_a_row_without_a_target_has_no_verdict() -> None:
    assert Row("memory", "nginx", "KiB", (1,), (2,)).verdict is Verdict.NONE


def test_rounds_that_do_not_pair_are_a_bug() -> None:
    with pytest.raises(ValueError, match="shorter"):
        assert Row("handshakes", "nginx", "1/s", (1, 2), (1,)).ratio


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,234"), (99.96, "100"), (0.12345, "0.123"), (0, "0")])
def test_figures_have_three_digits_that_mean_something(value: float, text: str) -> None:
    assert figure(value) == text


def test_the_table_says_what_was_measured_and_on_what() -> None:
    detail = Detail("Connections", ("server", "1/s"), (("Console, asyncio", "812"),))
    console = Console(width=150)
    with console.capture() as capture:
        show(console, MACHINE, [Findings((RATE,), detail)])
    text = capture.get()
    for part in (
        "handshakes",
        "nginx",
        "0.70",
        "0.60 to 0.90",
        "≥ 0.65, 0.80",
        "must met",
        "812",
        MACHINE.cpu,
    ):
        assert part in text


def test_a_row_can_be_written_down() -> None:
    found = json.loads(json.dumps(RATE.as_json()))
    assert (found["ratio"], found["must"], found["aim"], found["verdict"]) == (0.7, 0.65, 0.8, "must met")


def test_the_documents_table_has_the_same_figures() -> None:
    text = markdown(
        MACHINE, [Findings((RATE,), Detail("Connections", ("server", "1/s"), (("Console", "812"),)))]
    )
    row = "| handshakes | 70 1/s | nginx 100 | **0.70** (0.60 to 0.90) | ≥ 0.65, 0.80 | must met |"
    assert row in text.splitlines()
    assert "| Console | 812 |" in text.splitlines()
    assert MACHINE.openssl in text
