from console.identity.basic_cache import BasicCache


def test_holds_what_was_right_for_a_while() -> None:
    cache = BasicCache(seconds=60)
    assert not cache.holds("u", "p", "hash", 0)
    cache.add("u", "p", "hash", 0)
    assert cache.holds("u", "p", "hash", 59)
    assert not cache.holds("u", "p", "hash", 60)


def test_holds_nothing_else() -> None:
    cache = BasicCache()
    cache.add("ab", "c", "hash", 0)
    assert not cache.holds("a", "bc", "hash", 0)
    assert not cache.holds("ab", "d", "hash", 0)
    assert not cache.holds("ab", "c", "another hash", 0)
    assert not BasicCache().holds("ab", "c", "hash", 0)


def test_is_bounded_and_shows_nothing() -> None:
    cache = BasicCache(size=3)
    for n in range(9):
        cache.add("u", f"password-{n}", "hash", 0)
    assert len(cache) == 3
    assert cache.holds("u", "password-8", "hash", 0)
    assert "password" not in repr(vars(cache))
