import asyncio

from console.identity.turns import Turns


async def test_so_many_at_once_and_the_rest_in_line() -> None:
    turns = Turns(at_once=2, waiting=3)
    running = most = 0

    async def one() -> bool:
        nonlocal running, most
        async with turns.take("192.0.2.1") as mine:
            if not mine:
                return False
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return True

    outcomes = await asyncio.gather(*(one() for _ in range(9)))
    assert (outcomes.count(True), outcomes.count(False), most) == (5, 4, 2)
    assert len(turns) == 0


async def test_a_place_has_its_own_line() -> None:
    turns = Turns(at_once=1, waiting=0)
    async with turns.take("192.0.2.1") as first, turns.take("192.0.2.2") as other:
        async with turns.take("::ffff:192.0.2.1") as same:
            assert (first, other, same) == (True, True, False)
        assert len(turns) == 2
    async with turns.take("192.0.2.1") as again:
        assert again


async def test_who_stops_waiting_leaves_the_line() -> None:
    turns = Turns(at_once=1, waiting=5)

    async def wait() -> None:
        async with turns.take("192.0.2.1"):
            raise AssertionError

    async with turns.take("192.0.2.1"):
        waiting = [asyncio.ensure_future(wait()) for _ in range(5)]
        await asyncio.sleep(0)
        async with turns.take("192.0.2.1") as mine:
            assert not mine
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert len(turns) == 0
