from common.transport import Limits
from common.transport.crowd import Crowd

HERE, THERE = ("127.0.0.1", 1), ("127.0.0.2", 1)


def test_without_limits_everybody_may_come_and_no_address_is_kept() -> None:
    crowd = Crowd(Limits())
    for _ in range(1000):
        crowd.join(HERE)
    assert crowd.objection(HERE) == ""
    assert not crowd._by_address


def test_the_limit_of_all() -> None:
    crowd = Crowd(Limits(max_connections=2))
    crowd.join(HERE)
    assert crowd.objection(THERE) == ""
    crowd.join(THERE)
    assert crowd.objection(HERE) == "there are 2 connections already"
    crowd.leave(HERE)
    assert crowd.objection(HERE) == ""


def test_the_limit_of_one_address() -> None:
    crowd = Crowd(Limits(max_per_address=1))
    crowd.join(HERE)
    assert crowd.objection(("127.0.0.1", 2)) == "there are 1 connections from this address already"
    assert crowd.objection(THERE) == ""
    crowd.leave(HERE)
    assert crowd.objection(HERE) == ""
    assert not crowd._by_address, "what is gone is not kept"


def test_an_ipv6_network_is_one_address() -> None:
    crowd = Crowd(Limits(max_per_address=1))
    crowd.join(("2001:db8::1", 1, 0, 0))
    assert crowd.objection(("2001:db8::2", 1, 0, 0))
    assert not crowd.objection(("2001:db8:0:1::1", 1, 0, 0))
