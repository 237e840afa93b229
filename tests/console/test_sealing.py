"""Secrets at rest: what opens them, and what doesn't."""

import base64
import os
import stat
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import MasterKeyError, StoreError
from console.sealing import (
    DATA_KEY,
    KEY_BYTES,
    MASTER_KEY_NAME,
    Broken,
    Key,
    MasterKey,
    load_master_key,
    open_data_key,
)
from console.store import Store
from tests.console.store.disks import fill, small_disk
from tests.console.store.samples import generation

KEY = Key.generate()
NAMES = st.lists(st.text(max_size=10), min_size=1, max_size=4).map(tuple)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with await Store.open(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def path(store: Store) -> Path:
    return store.data_folder / MASTER_KEY_NAME


# Sealing


def test_what_is_sealed_opens_under_its_name() -> None:
    sealed = KEY.seal(b"plain", "defender", "1", "key.pem")
    assert b"plain" not in sealed
    assert KEY.open(sealed, "defender", "1", "key.pem") == b"plain"


def test_the_same_secret_is_never_sealed_the_same_way_twice() -> None:
    assert len({KEY.seal(b"plain", "name") for _ in range(50)}) == 50


def test_it_does_not_open_by_another_key() -> None:
    assert Key.generate().open(KEY.seal(b"plain", "name"), "name") == Broken("name")


@settings(deadline=None, max_examples=100)
@given(plain=st.binary(max_size=100), name=NAMES, other=NAMES)
def test_it_opens_under_no_other_name(plain: bytes, name: tuple[str, ...], other: tuple[str, ...]) -> None:
    sealed = KEY.seal(plain, *name)
    assert KEY.open(sealed, *name) == plain
    if other != name:
        assert isinstance(KEY.open(sealed, *other), Broken)


def test_parts_of_a_name_do_not_run_together() -> None:
    assert isinstance(KEY.open(KEY.seal(b"plain", "a", "bc"), "ab", "c"), Broken)
    assert isinstance(KEY.open(KEY.seal(b"plain", "a", ""), "a"), Broken)


@settings(deadline=None, max_examples=100)
@given(position=st.integers(0, 33), flip=st.integers(1, 255))
def test_a_changed_byte_breaks_it(position: int, flip: int) -> None:
    sealed = bytearray(KEY.seal(b"plain", "name"))
    assert len(sealed) == 1 + 12 + 5 + 16
    sealed[position % len(sealed)] ^= flip
    assert KEY.open(bytes(sealed), "name") == Broken("name")


@pytest.mark.parametrize(
    "sealed", [b"", b"\x01", b"\x01" + bytes(11), b"\x01" + bytes(12), b"\x01" + bytes(27)]
)
def test_what_is_too_short_is_broken(sealed: bytes) -> None:
    assert KEY.open(sealed, "name") == Broken("name")


def test_keys_do_not_show_themselves() -> None:
    key = Key(b"0123456789abcdef0123456789ABCDEF")
    for shown in (repr(key), str(key), repr(MasterKey(key, Path("/key")))):
        assert "0123456789" not in shown
    assert "0123456789" not in MasterKey(key, Path("/key")).fingerprint


def test_a_key_has_its_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Key(b"short")


def test_fingerprints_tell_keys_apart() -> None:
    assert MasterKey(KEY, Path("/a")).fingerprint == MasterKey(KEY, Path("/b")).fingerprint
    assert MasterKey(KEY, Path("/a")).fingerprint != MasterKey(Key.generate(), Path("/a")).fingerprint


def test_a_wrapped_key_is_no_sealed_secret_of_another_name() -> None:
    master = MasterKey(KEY, Path("/key"))
    assert master.unwrap(master.wrap(KEY)) == KEY
    with pytest.raises(MasterKeyError, match="is not the master key"):
        master.unwrap(KEY.seal(bytes(KEY_BYTES), "another name"))
    with pytest.raises(MasterKeyError, match="is not the master key"):
        master.unwrap(KEY.seal(b"short", DATA_KEY))


# The master key's file


def test_a_key_is_made_at_the_first_start_and_read_at_the_next(tmp_path: Path) -> None:
    path = tmp_path / MASTER_KEY_NAME
    made = load_master_key(path, create=True)
    assert load_master_key(path, create=False) == made
    assert load_master_key(path, create=True) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert base64.b64decode(path.read_bytes()) == made.key.secret
    assert [file.name for file in tmp_path.iterdir()] == [MASTER_KEY_NAME]


def test_openssl_can_make_one(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(
        subprocess.run(["openssl", "rand", "-base64", "32"], capture_output=True, check=True).stdout
    )
    path.chmod(0o600)
    assert len(load_master_key(path, create=False).key.secret) == KEY_BYTES


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_its_owner_may_have_it_as_he_likes(tmp_path: Path, mode: int) -> None:
    made = load_master_key(tmp_path / "key", create=True)
    (tmp_path / "key").chmod(mode)
    assert load_master_key(tmp_path / "key", create=False) == made


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o601, 0o777])
def test_others_may_not(tmp_path: Path, mode: int) -> None:
    load_master_key(tmp_path / "key", create=True)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(MasterKeyError, match=rf"mode {mode:04o}.*chmod 600"):
        load_master_key(tmp_path / "key", create=True)


def test_a_link_to_it_is_as_good(tmp_path: Path) -> None:
    made = load_master_key(tmp_path / "key", create=True)
    (tmp_path / "link").symlink_to("key")
    assert load_master_key(tmp_path / "link", create=False).key == made.key


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"not base64 at all!",
        base64.b64encode(bytes(31)),
        base64.b64encode(bytes(33)),
        bytes(32),
        b"A" * 5000,
    ],
)
def test_what_is_no_key_is_named_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(MasterKeyError, match=r"does not hold a master key .*; restore it") as caught:
        load_master_key(path, create=True)
    assert "not base64 at all" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_missing_one_is_not_replaced_if_something_needs_it(tmp_path: Path) -> None:
    with pytest.raises(MasterKeyError, match=r"is missing.*restore it.*GARRISON_MASTER_KEY_FILE"):
        load_master_key(tmp_path / "key", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_a_fifo_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("folder", "fifo"):
        with pytest.raises(MasterKeyError):
            load_master_key(tmp_path / name, create=True)


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MasterKeyError, match="No such file or directory"):
        load_master_key(tmp_path / "nowhere" / "key", create=True)


def test_a_full_disk_gets_no_half_key(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16k") as disk:
        fill(disk)
        with pytest.raises(MasterKeyError, match="No space left"):
            load_master_key(disk / "key", create=True)
        assert [file.name for file in disk.iterdir()] == ["ballast"]


# Both keys and the store


async def test_the_data_key_is_the_same_at_every_start(store: Store, path: Path) -> None:
    key = await open_data_key(store, path)
    assert await open_data_key(store, path) == key
    wrapped = await store.meta.get(DATA_KEY)
    assert wrapped is not None
    assert key.secret not in wrapped


async def test_a_key_that_lay_ready_is_used(store: Store, tmp_path: Path) -> None:
    """GARRISON_MASTER_KEY_FILE, outside of the data folder."""
    ready = load_master_key(tmp_path / "ready", create=True)
    key = await open_data_key(store, tmp_path / "ready")
    wrapped = await store.meta.get(DATA_KEY)
    assert wrapped is not None
    assert ready.unwrap(wrapped) == key
    assert not (store.data_folder / MASTER_KEY_NAME).exists()


async def test_a_start_that_ended_between_both_keys_goes_on(store: Store, path: Path) -> None:
    made = load_master_key(path, create=True)
    await open_data_key(store, path)
    assert load_master_key(path, create=False) == made


async def test_a_lost_master_key_is_said(store: Store, path: Path) -> None:
    await open_data_key(store, path)
    path.unlink()
    with pytest.raises(MasterKeyError, match="is missing, and the store was sealed with it"):
        await open_data_key(store, path)
    assert not path.exists()


async def test_another_master_key_is_said(store: Store, path: Path) -> None:
    await open_data_key(store, path)
    path.unlink()
    load_master_key(path, create=True)
    with pytest.raises(
        MasterKeyError, match=r"is not the master key that this store was sealed with; put the right"
    ):
        await open_data_key(store, path)


async def test_a_lost_data_key_is_said_before_a_master_key_is_made(store: Store, path: Path) -> None:
    await store.generations.add(generation())
    with pytest.raises(StoreError, match="no data key"):
        await open_data_key(store, path)
    assert not path.exists()
