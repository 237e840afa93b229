"""The answer of `report` as lines for a person."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from common.certificates.report import remaining

_STATES = {
    "absent": "holds nothing for this channel",
    "incomplete": "waits for {missing}",
    "settling": "is looked at, since it has just changed",
    "good": "holds the set in use",
    "bad": "holds what cannot be used; the set above is kept",
}


def channel_lines(channel: Mapping[str, Any], *, now: datetime) -> Iterator[str]:
    """What is said of one channel, of `report.certificates_report`'s form, at `now`."""
    yield f"{channel['channel']}:"
    if channel["fingerprint"] is None:
        yield "  no certificates"
        return
    yield f"  certificates  {channel['source']}, set {channel['fingerprint'][:16]}"
    left = remaining(datetime.fromisoformat(channel["notAfter"]), now)
    yield f"  valid until   {_time(channel['notAfter'])} ({left})"
    yield f"  names         {', '.join(channel['names'])}"
    yield f"  directory     {_directory(channel['watcher'], custom=channel['source'] == 'custom')}"
    if channel["watcher"]:
        yield from (f"                {fault}" for fault in channel["watcher"]["faults"])
    for drain in channel["drains"]:
        yield from _drain_lines(drain)


def _directory(watcher: Mapping[str, Any] | None, *, custom: bool) -> str:
    if watcher is None:
        return "is not watched"
    missing, state = ", ".join(watcher["missing"]), str(watcher["state"])
    if custom and missing:
        return f"lacks {missing} now; what was loaded stays in use, until a restart"
    # A newer Console may know more states.
    return _STATES.get(state, state).format(missing=missing)


def _drain_lines(drain: Mapping[str, Any]) -> Iterator[str]:
    if "begun" not in drain:
        yield f"  replaced      {_connections(drain['left'])} left on replaced certificates"
        return
    state = "over" if drain["over"] else "under way"
    yield (
        f"  move          {state}, begun {_time(drain['begun'])}: {drain['total']} to move, "
        f"{drain['asked']} asked, {drain['moved']} moved, {drain['failed']} failed, {drain['closed']} closed "
        f"without an attempt, {drain['gone']} gone, {drain['left']} left"
    )
    for one in drain["replaced"]:
        set_ = f"{one['source']}, set {one['fingerprint'][:16]}"
        yield f"  replaced      {_connections(one['connections'])} left on {set_}"
    for failure in drain["failures"]:
        yield f"  failed        {failure}"
    if drain["trustEnded"]:
        yield f"  trust         {_connections(drain['trustEnded'])} ended, because the CA was removed"
    if drain["trustRemoved"]:
        yield (
            f"  trust         {_connections(drain['trustRemoved'])} of a removed CA, until "
            f"{_time(drain['trustEnds'])}; end them now: garrison console end-removed-trust"
        )


def _connections(number: int) -> str:
    return f"{number} connection" if number == 1 else f"{number} connections"


def _time(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S UTC")
