import importlib
import pkgutil
import re

import pytest

import common
import console
import defender
from common import errors
from common.certificates import Fault, FaultKind
from common.errors import (
    CertificateSetError,
    CustomCertificatesError,
    ExpiredError,
    GarrisonError,
    NoCertificatesError,
    SettingsError,
    UsageError,
)

EXPIRED = Fault("cert.pem", FaultKind.EXPIRED, "has expired", "renew it")


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
        (
            ExpiredError("set in /certs", [EXPIRED]),
            "set in /certs cannot be used:\n  cert.pem: has expired; renew it",
            1,
        ),
        (
            CustomCertificatesError("/certs", [EXPIRED], ["Failed: one", "Failed: two"]),
            "Failed: one\nFailed: two",
            1,
        ),
        (NoCertificatesError("/certs", "is empty", "fill it"), "/certs: is empty; fill it", 1),
    ],
)
def test_says_what_is_wrong_and_what_to_do(error: GarrisonError, sentence: str, code: int) -> None:
    assert str(error) == sentence
    assert error.exit_code == code


@pytest.fixture(scope="module")
def everyone() -> set[type[GarrisonError]]:
    """Every exception of every room, whoever imported what before."""
    for room in (common, console, defender):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            # These two do something when they are imported: the program, and Alembic's script.
            if module.name not in ("common.__main__", "console.store.migrations.env"):
                importlib.import_module(module.name)
    return subclasses(GarrisonError)


def test_a_set_s_faults_keep_their_fields() -> None:
    error = ExpiredError("set", [EXPIRED])
    assert error.faults == (EXPIRED,)
    assert error.fault == "cert.pem: has expired; renew it"


def test_they_are_all_in_one_place(everyone: set[type[GarrisonError]]) -> None:
    assert {cls.__module__ for cls in everyone} == {errors.__name__}


def test_the_drawing_shows_every_exception_under_its_parent(everyone: set[type[GarrisonError]]) -> None:
    parents = {cls.__name__: cls.__mro__[1].__name__ for cls in everyone}
    assert drawn() == parents | {"GarrisonError": ""}


def drawn() -> dict[str, str]:
    """The drawing's names, each with its parent's."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for branch, name in re.findall(r"^ {4}([ │├└─]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE):
        path[len(branch) // 4 :] = [name]
        parents[name] = "".join(path[-2:-1])
    return parents


def test_exit_codes_are_two_for_usage_and_one_for_the_rest(everyone: set[type[GarrisonError]]) -> None:
    for cls in everyone:
        assert cls.exit_code == (2 if issubclass(cls, UsageError) else 1)
