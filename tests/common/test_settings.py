from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SettingsError
from common.settings import (
    Option,
    parse_choice,
    parse_config,
    parse_flag,
    parse_path,
    parse_port,
    parse_seconds,
    parse_text,
    read_settings,
)

OPTIONS = [
    Option("DATA_FOLDER", parse_path, Path("/var/lib/twistlock"), "state"),
    Option("MANAGEMENT_PORT_HTTPS", parse_port, 8083, "web page and API"),
    Option("GARRISON_LOG_FORMAT", parse_choice("text", "json"), "text", "log lines"),
    Option("INSTALL_BUNDLE", parse_text, None, "certificates", secret=True),
]


def test_defaults() -> None:
    assert read_settings(OPTIONS, {})["MANAGEMENT_PORT_HTTPS"] == 8083


def test_the_environment_wins_over_the_file() -> None:
    config = parse_config("MANAGEMENT_PORT_HTTPS=1\nDATA_FOLDER=/a", path="c")
    values = read_settings(OPTIONS, {"MANAGEMENT_PORT_HTTPS": "2"}, config=config)
    assert values["MANAGEMENT_PORT_HTTPS"] == 2
    assert values["DATA_FOLDER"] == Path("/a")


def test_everything_that_is_wrong_is_said_together() -> None:
    config = parse_config("MANAGEMENT_PORT_HTPS=1\n\nDATA_FOLDER=relative", path="/etc/twistlock.cfg")
    with pytest.raises(SettingsError) as caught:
        read_settings(
            OPTIONS,
            {"GARRISON_LOG_FROMAT": "json", "GARRISON_LOG_FORMAT": "xml"},
            config=config,
            config_path="/etc/twistlock.cfg",
        )
    assert sorted(caught.value.faults) == [
        "/etc/twistlock.cfg:1: MANAGEMENT_PORT_HTPS is not an option; did you mean MANAGEMENT_PORT_HTTPS?",
        "/etc/twistlock.cfg:3: DATA_FOLDER 'relative': is relative; give the whole path",
        "environment: GARRISON_LOG_FORMAT 'xml': is none of text, json",
        "environment: GARRISON_LOG_FROMAT is not an option; did you mean GARRISON_LOG_FORMAT?",
    ]


def test_other_programs_variables_are_no_concern() -> None:
    assert read_settings(OPTIONS, {"PATH": "/bin", "HOME": "/root"})["GARRISON_LOG_FORMAT"] == "text"


def test_the_other_sides_options_may_stand_in_a_shared_file() -> None:
    config = parse_config("SYSTEMD_ENABLED=false", path="c")
    foreign = frozenset({"SYSTEMD_ENABLED", "GARRISON_HOSTNAME"})
    read_settings(OPTIONS, {"GARRISON_HOSTNAME": "h"}, config=config, foreign=foreign)


def test_a_secret_value_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(OPTIONS, {"INSTALL_BUNDLE": "   "})
    assert str(caught.value) == "environment: INSTALL_BUNDLE: is empty; give a value or remove the option"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  export A=b", "b"),
        ('A="b c"', "b c"),
        ("A='b # c'  # comment", "b # c"),
        ("A=b # comment", "b"),
        ("A=b#c", "b#c"),
        ("A=", ""),
        ("A='it''", None),
        ("A='open", None),
        ("not an assignment", None),
        ("A =b", None),
    ],
)
def test_a_line_of_the_file(line: str, value: str | None) -> None:
    if value is None:
        with pytest.raises(SettingsError, match=r"^c:1: "):
            parse_config(line, path="c")
    else:
        assert parse_config(line, path="c") == {"A": (value, 1)}


def test_a_name_set_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="c:3: A is set already in line 1; keep one of them"):
        parse_config("A=1\n# x\nA=2", path="c")


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        values = parse_config(text, path="c")
    except SettingsError:
        return
    assert all(name.isidentifier() for name in values)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_port, "8083", 8083),
        (parse_port, " ", None),
        (parse_port, "0", 0),
        (parse_flag, "On", True),
        (parse_flag, "", False),
        (parse_seconds, "30", 30.0),
        (parse_seconds, "1.5h", 5400.0),
        (parse_seconds, "3y", 3 * 365 * 86400.0),
        (parse_seconds, "250ms", 0.25),
        (parse_path, "/x/../y", Path("/x/../y")),
        (parse_choice("1.2", "1.3"), "1.3", "1.3"),
    ],
)
def test_parses(parse: Any, text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_port, "65536"),
        (parse_port, "-1"),
        (parse_port, "http"),
        (parse_port, "²"),
        (parse_flag, "maybe"),
        (parse_seconds, "soon"),
        (parse_seconds, "-1s"),
        (parse_path, "a/b"),
        (parse_path, ""),
        (parse_text, " "),
        (parse_choice("text", "json"), "xml"),
    ],
)
def test_refuses(parse: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"^is "):
        parse(text)
