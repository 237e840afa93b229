"""Each listener answers with the set that it was told to use, at once."""

from pathlib import Path

from tests.bench.instant import measure


async def test_every_swap_is_met(tmp_path: Path) -> None:
    found = await measure(tmp_path / "data", 3)
    assert {channel: len(pairs) for channel, pairs in found.items()} == {"https": 3, "websocket": 3}
    assert all(0 < call < first for pairs in found.values() for call, first in pairs)
