from hypothesis import given
from hypothesis import strategies as st

from common.transport.write_queue import RECORD, WriteQueue

SIZES = st.one_of(st.integers(0, 50), st.integers(RECORD - 3, RECORD + 3), st.integers(0, 4 * RECORD))
KINDS = st.sampled_from([bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])


def octets(count: int, seed: int) -> bytes:
    return bytes((seed * 7 + place) % 251 for place in range(count))


@given(st.lists(st.tuples(SIZES, KINDS), max_size=12), st.randoms(use_true_random=False))
def test_what_goes_in_comes_out_in_order(pieces: list[tuple[int, type]], random: object) -> None:
    queue, expected, got = WriteQueue(), b"", b""
    for seed, (size, kind) in enumerate(pieces):
        data = octets(size, seed)
        expected += data
        queue.append(kind(data))
        if queue.size and random.random() < 0.5:  # type: ignore[attr-defined]
            chunk = bytes(queue.chunk())
            count = random.randint(1, len(chunk))  # type: ignore[attr-defined]
            got += chunk[:count]
            queue.consume(count)
        assert queue.size == len(expected) - len(got)
    while queue.size:
        chunk = bytes(queue.chunk())
        assert 0 < len(chunk) <= RECORD
        assert len(chunk) == min(RECORD, queue.size) or len(expected) > RECORD
        got += chunk
        queue.consume(len(chunk))
    assert got == expected


@given(st.lists(SIZES.filter(bool), min_size=1, max_size=8))
def test_a_chunk_that_was_not_written_comes_again_and_is_never_shorter(sizes: list[int]) -> None:
    queue = WriteQueue()
    last = b""
    for seed, size in enumerate(sizes):
        queue.append(octets(size, seed))
        chunk = bytes(queue.chunk())
        assert chunk.startswith(last)
        last = chunk


def test_many_small_pieces_make_whole_records() -> None:
    queue = WriteQueue()
    for _ in range(RECORD):
        queue.append(b"abc")
    lengths = []
    while queue.size:
        lengths.append(len(queue.chunk()))
        queue.consume(lengths[-1])
    assert lengths == [RECORD, RECORD, RECORD]


def test_a_large_piece_is_not_copied() -> None:
    data = bytes(10 * RECORD)
    queue = WriteQueue()
    queue.append(data)
    chunk = queue.chunk()
    assert isinstance(chunk, memoryview)
    assert chunk.obj is data
    queue.consume(len(chunk))
    again = queue.chunk()
    assert isinstance(again, memoryview)
    assert again.obj is data


def test_a_buffer_that_its_owner_changes_later_is_copied() -> None:
    queue, mine = WriteQueue(), bytearray(b"before")
    queue.append(mine)
    queue.append(memoryview(mine))
    mine[:] = b"after!"
    assert bytes(queue.chunk()) == b"beforebefore"


def test_a_view_with_gaps_and_one_of_numbers() -> None:
    queue = WriteQueue()
    queue.append(memoryview(b"a-b-c-")[::2])
    queue.append(memoryview(b"\1\0\2\0").cast("H"))
    assert bytes(queue.chunk()) == b"abc\1\0\2\0"
    assert queue.size == 7
