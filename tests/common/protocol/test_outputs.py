from typing import get_args

import pytest

from common.protocol import outputs
from common.protocol.outputs import CommandFinished, ConsoleOutput, DefenderOutput, Outcome, Output, Send


def test_every_output_is_for_one_end_or_both() -> None:
    all_of_them = {
        value for value in vars(outputs).values() if isinstance(value, type) and issubclass(value, Output)
    } - {Output}
    assert all_of_them == {*get_args(ConsoleOutput), *get_args(DefenderOutput)}


def test_outputs_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Send(b"x").data = b"y"  # type: ignore[misc]


def test_outputs_are_matched_by_class() -> None:
    match CommandFinished("c-1", Outcome.OK, {"a": 1}):
        case CommandFinished(command_id, Outcome.OK, value):
            assert (command_id, value) == ("c-1", {"a": 1})
        case _:
            pytest.fail("no match")
