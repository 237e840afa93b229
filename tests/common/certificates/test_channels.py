"""The words of the log, each line by each channel; those of the product to the letter."""

import logging
from pathlib import Path

import pytest

from common.certificates import FILES, CertificateSet, Fault, FaultKind, Role
from common.certificates.channels import (
    DISABLED,
    USING,
    Line,
    fatal,
    in_use,
    no_answer,
    no_events,
    no_start,
    swapped,
    told,
    trouble,
    trouble_over,
    waiting,
    warnings,
    watching,
)
from common.certificates.checks import when
from common.certificates.watching import Age, Ageing, Expired, Finding, Gone, Refused, Restored, Waiting
from tests.common.certificates.pki import DAY, NOW, judged, make_ca, make_client, make_server

DIRECTORY = Path("/var/lib/twistlock/custom-certificates")
ROLE = Role.DEFENDER_CLIENT
CA = make_ca("ca")


def set_for(role: Role) -> CertificateSet:
    leaf = make_server(CA) if role.is_server else make_client(CA)
    set_ = judged(role, leaf, [CA] if FILES[role].ca else []).set
    assert set_ is not None
    return set_


SET = set_for(ROLE)
NAMED = f"set {SET.fingerprint[:16]}, valid until {when(SET.not_after)}"
RENEW = f"copy renewed files to {DIRECTORY}, they are used at once"


def test_the_product_s_lines() -> None:
    text = "Custom certificates watcher disabled: certificates directory is not mounted"
    assert Line(logging.INFO, text) == DISABLED
    assert Line(logging.DEBUG, "Using custom directory certificates") == USING
    text = "Watching custom certificates directory: /var/lib/twistlock/custom-certificates"
    assert watching(DIRECTORY) == Line(logging.DEBUG, text)


@pytest.mark.parametrize(
    ("role", "begin"),
    [
        (Role.DEFENDER_CLIENT, "Defender custom certificates rotated, resetting connection: set "),
        (Role.DEFENDER_SERVER, "Console WebSocket custom certificates rotated, resetting listener: set "),
        (Role.HTTPS_SERVER, "Console HTTPS custom certificates rotated, resetting listener: set "),
        (Role.ADMISSION_SERVER, "Defender admission custom certificates rotated, resetting listener: set "),
    ],
)
def test_a_swap_by_its_channel(role: Role, begin: str) -> None:
    set_ = set_for(role)
    level, text = swapped(role, set_)
    assert level == logging.INFO
    assert text == f"{begin}{set_.fingerprint[:16]}, valid until {when(set_.not_after)}"


@pytest.mark.parametrize(
    ("role", "config"),
    [
        (Role.DEFENDER_CLIENT, "defender client"),
        (Role.DEFENDER_SERVER, "defender server"),
        (Role.HTTPS_SERVER, "console HTTPS"),
        (Role.ADMISSION_SERVER, "admission server"),
    ],
)
def test_causes_by_their_channel_and_file(role: Role, config: str) -> None:
    names = FILES[role]
    faults = tuple(Fault(name, FaultKind.EMPTY, "is empty", "copy it again") for name in names.all)
    pair = f"X509 key pair ({DIRECTORY}/{names.certificate}, {DIRECTORY}/{names.key})"
    begin = f"Failed to construct {config} TLS config error reading"
    expected = [f"{begin} {pair}: {fault}" for fault in faults[-2:]]
    if names.ca:
        expected.insert(0, f"{begin} CA bundle ({DIRECTORY}/{names.ca}): {faults[0]}")
    assert list(fatal(role, DIRECTORY, Refused(faults, None))) == [
        Line(logging.CRITICAL, text) for text in expected
    ]
    lines = list(told(role, DIRECTORY, Refused(faults, None), now=NOW))
    assert lines[:-1] == [Line(logging.ERROR, text) for text in expected]
    assert lines[-1].level == logging.ERROR


def test_the_cause_in_the_product_s_form() -> None:
    fault = Fault("defender-client-key.pem", FaultKind.NOT_PEM, "holds no PEM block", "put PEM there")
    [line] = fatal(ROLE, DIRECTORY, Refused((fault,), None))
    assert line.text == (
        "Failed to construct defender client TLS config error reading X509 key pair "
        "(/var/lib/twistlock/custom-certificates/defender-client-cert.pem, "
        "/var/lib/twistlock/custom-certificates/defender-client-key.pem): "
        "defender-client-key.pem: holds no PEM block; put PEM there"
    )


REFUSED = (
    "a restart now would fail: copy corrected files to /var/lib/twistlock/custom-certificates, they are used "
    "as soon as they are there"
)
GONE = (
    f"Defender custom certificates: a.pem, b.pem and c.pem are gone from {DIRECTORY}; what is loaded is "
    f"kept: {NAMED}; a restart would use the generated ones: copy the files back, or restart if that is what "
    "you want"
)
WAITING = (
    f"Defender custom certificates are incomplete: waiting for a.pem in {DIRECTORY}, with the generated "
    "certificates in use meanwhile; copy what is missing there"
)
EXPIRED = (
    "Defender custom certificates in use have expired, new connections fail and a restart would be refused: "
    f"{NAMED}; {RENEW}"
)


@pytest.mark.parametrize(
    ("found", "level", "text"),
    [
        (
            Refused((), SET),
            logging.ERROR,
            f"Defender custom certificates refused, what is in use is kept: {NAMED}; {REFUSED}",
        ),
        (
            Refused((), None),
            logging.ERROR,
            f"Defender custom certificates refused, the generated ones stay in use; {REFUSED}",
        ),
        (
            Gone(("a.pem", "b.pem", "c.pem"), SET),
            logging.WARNING,
            GONE,
        ),
        (
            Waiting(("a.pem",)),
            logging.INFO,
            WAITING,
        ),
        (
            Restored(SET),
            logging.INFO,
            f"Defender custom certificates in {DIRECTORY} are those in use again: {NAMED}",
        ),
        (
            Ageing(SET),
            logging.WARNING,
            f"Defender custom certificates in use expire soon (2 days left): {NAMED}; {RENEW}",
        ),
        (
            Expired(SET),
            logging.ERROR,
            EXPIRED,
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int | str) else "",
)
def test_what_is_told_says_what_to_do(found: Finding | Age, level: int, text: str) -> None:
    assert list(told(ROLE, DIRECTORY, found, now=SET.not_after - 2 * DAY)) == [Line(level, text)]


def test_the_rest() -> None:
    assert in_use(ROLE, SET) == Line(logging.INFO, f"Defender custom certificates in use: {NAMED}")
    assert waiting(ROLE, DIRECTORY, Waiting(("a.pem",)), level=logging.WARNING).level == logging.WARNING
    fault = Fault("a.pem", FaultKind.EXPOSED_KEY, "may be read by others", "chmod 600")
    assert list(warnings(ROLE, DIRECTORY, [fault])) == [
        Line(logging.WARNING, f"Defender custom certificates in {DIRECTORY}: {fault}")
    ]
    assert no_answer(DIRECTORY, 30.0) == Line(
        logging.WARNING,
        f"{DIRECTORY} has not answered for 30 s: until it does, what is loaded stays in use and no change is "
        "seen; check its volume (mount, network, file server)",
    )
    left = "see that this host has threads, memory and descriptors left for the process"
    assert trouble(DIRECTORY, "too many", 2.5) == Line(
        logging.ERROR,
        f"{DIRECTORY} could not be looked at (too many): what is loaded stays in use, and it is tried again "
        f"every 2.5 s; {left}",
    )
    assert trouble_over(DIRECTORY) == Line(logging.INFO, f"{DIRECTORY} can be looked at again")
    assert no_start(DIRECTORY, "too many") == Line(
        logging.CRITICAL,
        f"{DIRECTORY} could not be looked at (too many), so that nobody knows which certificates to use; "
        f"{left}, and start it again",
    )


SYSCTL = "; raise fs.inotify.max_user_instances and fs.inotify.max_user_watches (sysctl)"


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        (OSError("OS file watch limit reached. about [x]"), SYSCTL),
        (RuntimeError("Error creating recommended watcher: Too many open files (os error 24)"), SYSCTL),
        (
            PermissionError("Permission denied (os error 13)"),
            "; let the user that runs Garrison read this directory",
        ),
        (ModuleNotFoundError("No module named 'watchfiles'"), ""),
        (RuntimeError("can't start new thread"), ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_why_there_are_no_events_decides_what_to_do(cause: Exception, remedy: str) -> None:
    assert no_events(DIRECTORY, cause, 10.0) == Line(
        logging.WARNING,
        f"{DIRECTORY} gives no events ({cause}): a change is found by reading it every 10 s instead{remedy}",
    )
