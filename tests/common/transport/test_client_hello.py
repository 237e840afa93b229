import ssl
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.transport import client_hello
from common.transport.client_hello import (
    MAX_FRAGMENT,
    MAX_MESSAGE,
    MAX_PEEK,
    MAX_RECORDS,
    ClientHello,
    NeedMore,
    NotClientHello,
    Spoken,
    parse_client_hello,
)


def real_hello(
    name: str | None = "console.example",
    alpn: tuple[str, ...] = (),
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = maximum
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


REAL = real_hello(alpn=("g-2", "g-1"))


def record(body: bytes, kind: int = 22, version: bytes = b"\3\1") -> bytes:
    return bytes([kind]) + version + struct.pack("!H", len(body)) + body


def message(body: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def vector(width: int, body: bytes) -> bytes:
    return len(body).to_bytes(width, "big") + body


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, body)


def hello(*extensions: bytes, legacy: bytes = b"\3\3", tail: bytes | None = None) -> bytes:
    """One made by hand, in one record."""
    body = legacy + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    body += vector(2, b"".join(extensions)) if tail is None else tail
    return record(message(body))


def refragment(data: bytes, sizes: list[int]) -> bytes:
    """The same handshake message in records of these sizes, the last one takes the rest."""
    body, out = data[5:], b""
    for size in sizes:
        if len(body) > size:
            out, body = out + record(body[:size]), body[size:]
    return out + record(body)


def test_name_alpn_and_versions_are_read_from_what_openssl_sends() -> None:
    found = parse_client_hello(REAL)
    assert found == ClientHello("console.example", ("g-2", "g-1"), (0x0304, 0x0303))


def test_without_sni_and_alpn() -> None:
    assert parse_client_hello(real_hello(None)) == ClientHello(None, (), (0x0304, 0x0303))


def test_tls_1_2_client_has_its_legacy_version() -> None:
    found = parse_client_hello(real_hello(maximum=ssl.TLSVersion.TLSv1_2))
    assert isinstance(found, ClientHello)
    assert found.versions == (0x0303,)


def test_equal_clients_are_equal_though_their_randoms_differ() -> None:
    assert parse_client_hello(real_hello()) == parse_client_hello(real_hello())


@given(st.integers(0, len(REAL) - 1))
def test_every_prefix_asks_for_more_and_never_for_too_much(cut: int) -> None:
    found = parse_client_hello(REAL[:cut])
    assert isinstance(found, NeedMore)
    assert cut < found.total <= len(REAL)


@given(st.lists(st.integers(1, 200), max_size=MAX_RECORDS - 1))
def test_fragments_over_records_change_nothing(sizes: list[int]) -> None:
    data = refragment(REAL, sizes)
    assert parse_client_hello(data) == parse_client_hello(REAL)
    assert parse_client_hello(data + b"what follows") == parse_client_hello(REAL)


@given(st.lists(st.integers(1, 200), max_size=MAX_RECORDS - 1))
def test_waiting_for_what_is_asked_for_ends_in_the_hello_after_few_looks(sizes: list[int]) -> None:
    data = refragment(REAL, sizes)
    have = looks = 0
    while isinstance(found := parse_client_hello(data[:have]), NeedMore):
        assert found.total > have
        have = found.total
        looks += 1
    assert isinstance(found, ClientHello)
    assert looks <= 2 * MAX_RECORDS + 1


def test_more_records_than_we_wait_for() -> None:
    found = parse_client_hello(refragment(REAL, [1] * (MAX_RECORDS + 1)))
    assert found == NotClientHello(Spoken.BAD_TLS, f"a ClientHello in more than {MAX_RECORDS} records")


@given(st.binary(max_size=600))
def test_no_octets_at_all_raise(data: bytes) -> None:
    assert isinstance(parse_client_hello(data), ClientHello | NeedMore | NotClientHello)


@settings(max_examples=100)
@given(st.integers(0, len(REAL) - 1), st.integers(0, 255))
def test_one_changed_octet_never_raises_nor_waits_beyond_the_bound(place: int, value: int) -> None:
    found = parse_client_hello(REAL[:place] + bytes([value]) + REAL[place + 1 :])
    if isinstance(found, NeedMore):
        assert found.total <= MAX_PEEK


@pytest.mark.parametrize(
    "method", ["GET / HTTP/1.1\r\n", "POST /x", "HEAD ", "PRI * HTTP/2.0\r\n", "OPTIONS *", "GE"]
)
def test_http_is_recognised(method: str) -> None:
    assert parse_client_hello(method.encode()) == NotClientHello(Spoken.HTTP, "HTTP spoken to a TLS port")


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x", b"\0", b"hello", b"G", b"GEX", b"\x80\x2e\x01", b"\x16\x02\x00"]
)
def test_other_languages_are_recognised_at_once(data: bytes) -> None:
    found = parse_client_hello(data)
    assert isinstance(found, NotClientHello)
    assert found.spoken is Spoken.OTHER


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (record(b"\2\x28", kind=21), "a TLS record of type 21 with 2 octets"),
        (record(b"x", kind=23), "a TLS record of type 23 with 1 octets"),
        (record(b""), "a TLS record of type 22 with 0 octets"),
        (b"\x16\3\1" + struct.pack("!H", MAX_FRAGMENT + 1), f"of type 22 with {MAX_FRAGMENT + 1} octets"),
        (record(message(b"x", kind=2)), "a handshake message of type 2 where the ClientHello is due"),
        (record(b"\1" + (MAX_MESSAGE + 1).to_bytes(3, "big")), f"a ClientHello of {MAX_MESSAGE + 1} octets"),
        (record(message(b"")), "malformed ClientHello: a field ends behind its structure"),
        (hello(extension(16, b"\0\3\2g")), "a field ends behind its structure"),
        (hello(extension(0, b""), extension(0, b"")), "malformed"),
        (hello(extension(16, vector(2, b"")), extension(16, vector(2, b""))), "extension 16 twice"),
        (hello(tail=b"\0\5\0"), "a field ends behind its structure"),
    ],
)
def test_malformed(data: bytes, reason: str) -> None:
    found = parse_client_hello(data)
    assert isinstance(found, NotClientHello)
    assert found.spoken is Spoken.BAD_TLS
    assert reason in found.reason


def test_a_wrong_type_is_told_from_the_first_octet_of_the_message() -> None:
    assert isinstance(parse_client_hello(b"\x16\3\1\0\x64\x02"), NotClientHello)


def test_no_extensions_at_all() -> None:
    assert parse_client_hello(hello(tail=b"")) == ClientHello(None, (), (0x0303,))


def test_grease_is_left_out() -> None:
    versions = extension(43, vector(1, b"\x3a\x3a\x03\x04\x03\x03"))
    assert parse_client_hello(hello(versions)) == ClientHello(None, (), (0x0304, 0x0303))


def test_a_name_that_is_no_host_name_is_passed_over() -> None:
    names = vector(2, b"\1" + vector(2, b"other") + b"\0" + vector(2, b"Host.Example"))
    assert parse_client_hello(hello(extension(0, names))) == ClientHello("host.example", (), (0x0303,))
    assert parse_client_hello(hello(extension(0, vector(2, b"\1" + vector(2, b"x"))))) == ClientHello(
        None, (), (0x0303,)
    )


def test_odd_octets_in_alpn_stay_distinct() -> None:
    protocols = vector(2, vector(1, b"\xff\x00") + vector(1, b"h2"))
    assert parse_client_hello(hello(extension(16, protocols))) == ClientHello(
        None, ("\xff\0", "h2"), (0x0303,)
    )


# The reader by index and the reader by cursor


def the_long_way(data: bytes) -> ClientHello | NeedMore | NotClientHello:
    """What the reader by cursor says: the one by index sees no octet that follows the message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_hello, "_parse_usual", lambda _: None)
        return parse_client_hello(data)


_NAME_LIKE = st.lists(
    st.tuples(st.integers(0, 2), st.binary(max_size=8)).map(lambda n: bytes([n[0]]) + vector(2, n[1])),
    max_size=3,
).map(lambda names: vector(2, b"".join(names)))
_ALPN_LIKE = st.lists(st.binary(max_size=6).map(lambda name: vector(1, name)), max_size=3).map(
    lambda names: vector(2, b"".join(names))
)
_VERSIONS_LIKE = st.binary(max_size=9).map(lambda versions: vector(1, versions))
_EXTENSIONS = st.lists(
    st.one_of(
        st.tuples(st.just(0), _NAME_LIKE),
        st.tuples(st.just(16), _ALPN_LIKE),
        st.tuples(st.just(43), _VERSIONS_LIKE),
        st.tuples(st.sampled_from([0, 10, 16, 43, 51, 0x0A0A]), st.binary(max_size=12)),
    ).map(lambda parts: extension(*parts)),
    max_size=5,
)


@st.composite
def hello_like(draw: st.DrawFn) -> bytes:
    """Whole ClientHellos, with up to three octets changed, cut off or added anywhere."""
    body = draw(st.binary(min_size=2, max_size=2)) + bytes(32) + vector(1, draw(st.binary(max_size=4)))
    body += vector(2, draw(st.binary(max_size=6))) + vector(1, draw(st.binary(max_size=2)))
    body += draw(st.sampled_from([b"", vector(2, b"".join(draw(_EXTENSIONS)))]))
    data = bytearray(record(message(body + draw(st.sampled_from([b"", b"", b"x"])))))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]) + draw(
        st.sampled_from([b"", b"", b"more"])
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(hello_like(), min_size=20, max_size=20))
def test_both_readers_say_the_same(inputs: list[bytes]) -> None:
    for data in inputs:
        assert parse_client_hello(data) == the_long_way(data)


REALS = [
    REAL,
    real_hello(None),
    real_hello(".".join(["x" * 50] * 4), ("h2", "http/1.1")),
    real_hello(maximum=ssl.TLSVersion.TLSv1_2),
    hello(extension(0, vector(2, b"")), extension(21, bytes(3000))),
]


@pytest.mark.parametrize("data", REALS)
def test_both_readers_say_the_same_of_real_ones_with_one_octet_changed(data: bytes) -> None:
    assert client_hello._parse_usual(data) == the_long_way(data), "and the reader by index takes them"
    for place in range(len(data[:700])):
        for value in (data[place] ^ 1, data[place] + 1 & 255, 0, 255):
            changed = data[:place] + bytes([value]) + data[place + 1 :]
            assert parse_client_hello(changed) == the_long_way(changed)
        assert parse_client_hello(data[:place]) == the_long_way(data[:place])


def test_what_is_longer_than_a_record_is_not_usual() -> None:
    long = hello(extension(21, bytes(MAX_FRAGMENT)))
    assert client_hello._parse_usual(long) is None
    assert isinstance(parse_client_hello(long), NotClientHello)


def test_strangers_fill_no_memory_with_their_wishes() -> None:
    before = client_hello._remembered.cache_info()
    parse_client_hello(hello(extension(16, vector(2, vector(1, b"x" * 250) * 20))))
    assert client_hello._remembered.cache_info() == before, "a long one is not remembered"
    for number in range(1000):
        parse_client_hello(hello(extension(16, vector(2, vector(1, b"%d" % number)))))
    after = client_hello._remembered.cache_info()
    assert after.maxsize is not None
    assert after.currsize <= after.maxsize <= 128


def test_a_hostile_hello_is_kept_small() -> None:
    """5,267 names in 15.9 kB were 381 KB of Python objects."""
    names = b"".join(b"\2" + struct.pack("!H", number) for number in range(5267))
    parsed = parse_client_hello(hello(extension(16, vector(2, names))))
    assert isinstance(parsed, ClientHello)
    assert parsed.alpn == tuple(f"\0{chr(number)}" for number in range(16))


def test_kept_names_are_bounded_in_all() -> None:
    names = vector(1, b"g-1") + vector(1, b"a" * 255) * 2 + vector(1, b"g-2")
    parsed = parse_client_hello(hello(extension(16, vector(2, names))))
    assert isinstance(parsed, ClientHello)
    assert parsed.alpn == ("g-1", "a" * 255)


def test_kept_versions_and_a_long_name_are_bounded() -> None:
    versions = vector(1, b"".join(struct.pack("!H", 0x7000 + number) for number in range(100)))
    name = vector(2, b"\0" + vector(2, b"a" * 3000))
    parsed = parse_client_hello(hello(extension(43, versions), extension(0, name)))
    assert isinstance(parsed, ClientHello)
    assert len(parsed.versions) == 16
    assert parsed.server_name == "a" * 255
