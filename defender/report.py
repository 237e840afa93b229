"""The state that a Defender reports when its Console asks: flat values, no secrets."""

from collections.abc import Collection, Sequence

from common.protocol import Fields
from defender.connection import Link
from defender.credentials import CHANNEL, Credentials
from defender.facts import Host
from defender.identity import InstanceKey
from defender.settings import DefenderSettings
from defender.spool import Spool


def state_report(
    settings: DefenderSettings,
    *,
    host: Host,
    key: InstanceKey,
    held: Sequence[Credentials],
    proved: Collection[str],
    spool: Spool,
    link: Link,
) -> Fields:
    """What this Defender is, holds and does, for `reportState`.

    Args:
        settings: Its options.
        host: What it says about itself.
        key: Its instance key; only the public part's fingerprint is told.
        held: The sets that it has: what it wants to use, and the one before for as long as it needs that.
        proved: Fingerprints of the sets that a Welcome was received over.
        spool: Its events.
        link: The connection that was asked on.
    """
    position = spool.position
    return {
        "hostname": host.hostname,
        "fqdn": host.fqdn,
        "version": host.version,
        "type": host.type,
        "os": host.os,
        "arch": host.arch,
        "instanceKey": key.fingerprint,
        "certificates": [
            {
                "channel": CHANNEL,
                "source": one.set.source.value,
                "fingerprint": one.set.leaf.fingerprint,
                "set": one.set.fingerprint,
                "notAfter": one.set.not_after.isoformat(),
                "proved": one.set.fingerprint in proved,
                "inUse": one.same(link.credentials),
            }
            for one in held
        ],
        "spool": {
            "epoch": position.epoch,
            "first": position.first,
            "next": position.next,
            "held": spool.held,
            "waiting": spool.waiting,
            "dropped": position.dropped,
        },
        "connection": {
            "address": str(settings.address),
            "consoleCertificate": link.leaf,
            "session": link.welcome.session if link.welcome else 0,
            "seconds": round(link.age, 3),
            "roundTripSeconds": link.round_trip,
            "clockSkewSeconds": link.skew,
        },
    }
