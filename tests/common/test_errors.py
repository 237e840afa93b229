import pytest

from common import errors
from common.errors import CertificateSetError, GarrisonError, SettingsError, UsageError


def subclasses(cls: type[GarrisonError]) -> set[type[GarrisonError]]:
    return {cls}.union(*(subclasses(child) for child in cls.__subclasses__()))


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (
            GarrisonError("port 8083", "is taken", "stop what holds it"),
            "port 8083: is taken; stop what holds it",
            1,
        ),
        (
            UsageError("WS_ADDRESS", "is missing", "set it to wss://host:8084"),
            "WS_ADDRESS: is missing; set it to wss://host:8084",
            2,
        ),
        (SettingsError(["A: is empty", "B: is no port"]), "A: is empty\nB: is no port", 2),
        (
            CertificateSetError("https set in /certs", ["console-key.pem: is missing; copy it"]),
            "https set in /certs cannot be used:\n  console-key.pem: is missing; copy it",
            1,
        ),
    ],
)
def test_says_what_is_wrong_and_what_to_do(error: GarrisonError, sentence: str, code: int) -> None:
    assert str(error) == sentence
    assert error.exit_code == code


def test_the_drawing_shows_every_exception() -> None:
    for cls in subclasses(GarrisonError):
        if cls.__module__ == errors.__name__:
            assert cls.__name__ in (errors.__doc__ or "")


def test_exit_codes_are_two_for_usage_and_one_for_the_rest() -> None:
    for cls in subclasses(GarrisonError):
        if cls.__module__ == errors.__name__:
            assert cls.exit_code == (2 if issubclass(cls, UsageError) else 1)
