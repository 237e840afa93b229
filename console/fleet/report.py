"""What `garrison console certs` answers: for each channel the set in use, and how a move to it goes."""

from collections.abc import Mapping
from typing import Any, Protocol

from common.certificates import CertificateSet, ChannelStatus, Role
from console.fleet.drain import DrainState, RemovedTrust


class DefendersPort(Protocol):
    """What is asked of the fleet."""

    @property
    def certificates(self) -> CertificateSet | None:
        """What the next ClientHello is answered with."""
        ...

    @property
    def drain(self) -> DrainState | None:
        """What became of those who were connected at the last swap; None if nobody was."""
        ...

    @property
    def removed_trust(self) -> RemovedTrust | None:
        """The connections that a swap took the trust from, and when they end; None without any."""
        ...


class HTTPSPort(Protocol):
    """What is asked of the HTTPS server."""

    @property
    def certificates(self) -> CertificateSet | None:
        """What the next ClientHello is answered with."""
        ...

    @property
    def draining(self) -> int:
        """Connections that were made with certificates which have been replaced since."""
        ...


def certificates_report(
    fleet: DefendersPort, https: HTTPSPort, watched: Mapping[Role, ChannelStatus]
) -> dict[str, Any]:
    """What each of the Console's channels uses.

    Args:
        fleet: The Defenders' port.
        https: The port of web UI and API.
        watched: What the directory of custom certificates holds, by role; nothing where it isn't watched.

    Returns:
        JSON-able: `channels`, each with `channel` (`https`, `defender`), and with `source`, `fingerprint`,
        `notAfter` and `names` of the set in use (null before there is one), `watcher` (null where nothing is
        watched) with `state`, `missing` and `faults` of the directory, and `drains`: what is known of those
        who were connected at the last swap, none if there were none. A drain of `https` has `left` only.
    """
    channels = [
        {
            **_channel("https", https.certificates, watched.get(Role.HTTPS_SERVER)),
            "drains": [{"left": https.draining}] if https.draining else [],
        },
        {
            **_channel("defender", fleet.certificates, watched.get(Role.DEFENDER_SERVER)),
            "drains": [_drain(fleet.drain, fleet.removed_trust)] if fleet.drain else [],
        },
    ]
    return {"channels": channels}


def _channel(name: str, set_: CertificateSet | None, status: ChannelStatus | None) -> dict[str, Any]:
    return {
        "channel": name,
        "source": set_.source.value if set_ else None,
        "fingerprint": set_.fingerprint if set_ else None,
        "notAfter": set_.not_after.isoformat() if set_ else None,
        "names": list(set_.names) if set_ else [],
        "watcher": _watcher(status) if status else None,
    }


def _watcher(status: ChannelStatus) -> dict[str, Any]:
    return {
        "state": status.state.value,
        "missing": list(status.missing),
        "faults": [str(fault) for fault in status.faults],
    }


def _drain(drain: DrainState, removed: RemovedTrust | None) -> dict[str, Any]:
    counts = drain.counts
    return {
        "begun": drain.begun.isoformat(),
        "over": drain.over,
        "total": counts.total,
        "waiting": counts.opening + counts.waiting,
        "pending": counts.pending,
        "asked": counts.asked,
        "moved": counts.moved,
        "failed": counts.failed,
        "closed": counts.closed,
        "trustEnded": counts.cut,
        "gone": counts.gone,
        "left": counts.left,
        "failures": list(drain.failures),
        "replaced": [
            {"fingerprint": one.fingerprint, "source": one.source, "connections": one.connections}
            for one in drain.replaced
        ],
        "handshakesPerSecond": round(drain.rate, 1),
        "trustRemoved": removed.connections if removed else 0,
        "trustEnds": removed.ends.isoformat() if removed else None,
    }
