"""PEM blocks, and files that are none."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import FaultKind
from common.certificates.pem import MAX_FAULTS, encode_block, parse_blocks

BLOCK = encode_block("CERTIFICATE", b"some bytes that are long enough for two lines of text in base64")


def kinds(data: bytes) -> list[FaultKind]:
    _, faults = parse_blocks("f.pem", data)
    assert all(fault.file == "f.pem" for fault in faults)
    return [fault.kind for fault in faults]


def test_blocks_in_order_with_text_around() -> None:
    data = b"Bag Attributes\n" + encode_block("A", b"1") + b"\nsubject=x\n" + encode_block("B C", b"2")
    blocks, faults = parse_blocks("f.pem", data)
    assert faults == ()
    assert [(one.label, one.der) for one in blocks] == [("A", b"1"), ("B C", b"2")]
    assert [one.line for one in blocks] == [2, 7]


def test_lines_are_64_wide() -> None:
    lines = BLOCK.splitlines()
    assert max(map(len, lines[1:-1])) == 64
    assert base64.b64decode(b"".join(lines[1:-1])).startswith(b"some bytes")
    assert BLOCK.endswith(b"-----END CERTIFICATE-----\n")


def test_one_long_line_and_indented_blocks() -> None:
    body = base64.b64encode(b"x" * 300)
    data = b"  -----BEGIN X-----\n  " + body + b"\n  -----END X-----"
    blocks, faults = parse_blocks("f.pem", data)
    assert (blocks[0].der, faults) == (b"x" * 300, ())


def test_headers_of_the_old_form() -> None:
    data = (
        b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"
        b"AAAA\n-----END RSA PRIVATE KEY-----"
    )
    blocks, faults = parse_blocks("f.pem", data)
    assert faults == ()
    assert blocks[0].headers == ("Proc-Type: 4,ENCRYPTED", "DEK-Info: AES-256-CBC,00")
    assert blocks[0].der == b"\0\0\0"


@pytest.mark.parametrize("data", [b"", b"  \r\n\t\n"])
def test_empty(data: bytes) -> None:
    assert kinds(data) == [FaultKind.EMPTY]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello", FaultKind.NOT_PEM),
        (b"\x30\x82\x01\x00" + bytes(50), FaultKind.DER),
        (b"\x30\x80" + bytes(50), FaultKind.DER),
        (BLOCK.decode().encode("utf-16"), FaultKind.NOT_PEM),
        (BLOCK[:-2], FaultKind.MALFORMED),
        (BLOCK[:-30], FaultKind.TRUNCATED),
        (BLOCK[:40], FaultKind.TRUNCATED),
        (BLOCK[30:], FaultKind.TRUNCATED),
        (BLOCK.replace(b"-----BEGIN", b"----BEGIN"), FaultKind.MALFORMED),
        (BLOCK.replace(b"END CERTIFICATE", b"END OTHER"), FaultKind.TRUNCATED),
        (BLOCK.replace(b"c29t", b"c2!t"), FaultKind.MALFORMED),
        (b"-----BEGIN X-----\n-----END X-----", FaultKind.MALFORMED),
        (b"-----BEGIN X-----\nProc-Type: 4,ENCRYPTED\n-----END X-----", FaultKind.MALFORMED),
        (b"-----BEGIN X-----\nAAA\n-----END X-----", FaultKind.MALFORMED),
    ],
)
def test_what_is_wrong_is_named(data: bytes, kind: FaultKind) -> None:
    assert kinds(data)[0] is kind


def test_a_block_that_begins_in_another_ends_the_other() -> None:
    blocks, faults = parse_blocks("f.pem", BLOCK[:60] + b"\n" + BLOCK)
    assert [fault.kind for fault in faults] == [FaultKind.TRUNCATED]
    assert len(blocks) == 1


def test_a_sentence_names_the_line() -> None:
    _, faults = parse_blocks("f.pem", b"\n\n" + BLOCK[:60])
    assert "from line 3 on has no end" in str(faults[0])


def test_faults_are_bounded() -> None:
    assert len(kinds(b"-----BEGIN X-----\n" * 5000)) == MAX_FAULTS


def test_a_block_shows_nothing_of_what_it_holds() -> None:
    blocks, _ = parse_blocks("f.pem", encode_block("PRIVATE KEY", b"secret"))
    assert "secret" not in repr(blocks)
    assert "c2VjcmV0" not in repr(blocks)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "B 1", "PRIVATE KEY"]), st.binary(min_size=1)), min_size=1, max_size=5
    )
)
def test_what_is_encoded_is_parsed(content: list[tuple[str, bytes]]) -> None:
    blocks, faults = parse_blocks("f.pem", b"".join(encode_block(*one) for one in content))
    assert faults == ()
    assert [(one.label, one.der) for one in blocks] == content


@settings(deadline=None, max_examples=100)
@given(st.binary() | st.text(alphabet="-BEGIND XAPRVTKY\n\r=: ").map(str.encode))
def test_any_bytes_give_blocks_or_faults(data: bytes) -> None:
    blocks, faults = parse_blocks("f.pem", data)
    assert blocks or faults
