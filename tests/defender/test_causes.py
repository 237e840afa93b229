import pytest

from defender.causes import REMEDIES, Cause, ExitCode, Failure


def test_exit_codes_are_stable() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "UNREACHABLE": 10, "NOT_A_CONSOLE": 11, "UNKNOWN_CA": 12,
        "CONSOLE_EXPIRED": 13, "OWN_EXPIRED": 14, "WRONG_NAME": 15, "REFUSED": 16, "BUSY": 17, "PROTOCOL": 18,
    }  # fmt: skip


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_code_and_a_remedy(cause: Cause) -> None:
    assert cause.exit_code >= 10
    assert REMEDIES[cause]


def test_a_failure_reads_as_fault_and_remedy() -> None:
    failure = Failure(Cause.WRONG_NAME, "the Console's certificate does not name x")
    assert str(failure).startswith("the Console's certificate does not name x; add the name")
    # The generated certificate is made with an option, the operator's own are issued.
    assert "CONSOLE_SAN" in failure.remedy
    assert "custom-certificates" in failure.remedy
    assert failure.remedy == REMEDIES[Cause.WRONG_NAME]
