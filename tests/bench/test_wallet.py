"""Which set the load generator's Defenders use when."""

from pathlib import Path

import pytest

from common.certificates import FILES, Role, read_files
from tests.bench.errors import BenchError
from tests.bench.wallet import Wallet
from tests.operator import Operator
from tests.pki import PKI

ROLE = Role.DEFENDER_CLIENT


def test_the_folder_wins_from_the_start(certificates: Path, tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    files = operator.pki.files(ROLE)
    operator.copy(files)
    wallet = Wallet(read_files(certificates, ROLE), tmp_path)
    assert wallet.newest.name == operator.judged(ROLE, files).fingerprint


def test_half_a_set_and_a_bad_one_are_passed_over(certificates: Path, tmp_path: Path) -> None:
    wallet = Wallet(read_files(certificates, ROLE), tmp_path)
    given, pki = wallet.newest, PKI()
    files, other = pki.files(ROLE), pki.files(ROLE)
    key = FILES[ROLE].key
    for half in ({}, {key: files[key]}, {**files, key: other[key]}):
        Operator(tmp_path, pki).copy(half)
        assert not wallet.look()
        assert wallet.newest is given
    Operator(tmp_path, pki).copy(files)
    assert wallet.look()
    assert not wallet.look()
    assert wallet.newest is not given


def test_the_same_set_in_other_bytes_is_no_news(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    files = operator.pki.files(ROLE)
    operator.copy(files)
    wallet = Wallet(None, tmp_path)
    operator.copy({name: b"a comment\n" + data for name, data in files.items()})
    assert not wallet.look()


def test_nothing_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no complete set of defender-client"):
        Wallet(None, tmp_path)
