"""What a Defender says about its host. It describes; it never identifies (D9a)."""

import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.protocol import Claims, CommandName, HeldSet, HostFacts, SpoolState
from common.version import VERSION
from defender.resolve import in_thread

NAME_TIMEOUT: Final = 2.0
"""Seconds to wait for the resolver to tell the host's full name."""
_GB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Host:
    """The host, in the words of the API's `defender.Defender`.

    Attributes:
        hostname: Its name.
        fqdn: Its full name, as `hostname --fqdn` would tell.
        version: Garrison's version.
        type: One of `common.product.DEFENDER_TYPES`.
        os: Such as `linux`.
        arch: Such as `x86_64` or `aarch64`.
    """

    hostname: str
    fqdn: str
    version: str
    type: str
    os: str
    arch: str

    def claims(self, spool: SpoolState, certificates: tuple[HeldSet, ...] = ()) -> Claims:
        """What the Hello says."""
        return Claims(
            hostname=self.hostname,
            fqdn=self.fqdn,
            version=self.version,
            type=self.type,
            os=self.os,
            arch=self.arch,
            spool=spool,
            capabilities=tuple(CommandName),
            certificates=certificates,
        )


async def gather(*, defender_type: str, override: str | None) -> Host:
    """The facts of this host.

    Args:
        defender_type: What the operator says this Defender is.
        override: GARRISON_HOSTNAME: stands for both names, so that several Defenders of one host differ.
    """
    hostname = override or socket.gethostname()
    return Host(
        hostname=_name(hostname),
        fqdn=_name(override or await _fqdn(hostname)),
        version=VERSION,
        type=defender_type,
        os=sys.platform,
        arch=os.uname().machine,
    )


UNKNOWN: Final = Host("", "", VERSION, "none", sys.platform, "")
"""What is said before anything was asked."""


def _name(text: str) -> str:
    """A name within the protocol's bounds, whatever the host or its resolver say."""
    return "".join(c if c.isprintable() else "?" for c in text)[:255]


def system(folder: Path, certificates: tuple[HeldSet, ...] = ()) -> HostFacts:
    """What the host has, as the API's `defender.SystemInfo` names it; what cannot be told is 0.

    Args:
        folder: On the disk that counts: the data folder.
        certificates: The sets that are held.
    """
    try:
        disk = shutil.disk_usage(folder)
        total, free = disk.total, disk.free
    except OSError:
        total = free = 0
    return HostFacts(
        kernel_version=os.uname().release,
        cpu_count=os.cpu_count() or 0,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB, 2),
        total_disk_space_gb=round(total / _GB),
        free_disk_space_gb=round(free / _GB),
        certificates=certificates,
    )


async def _fqdn(hostname: str) -> str:
    """The resolver's name for this host; where it is slow or knows none, the short one."""
    try:
        return await in_thread(lambda: socket.getfqdn(hostname), patience=NAME_TIMEOUT)
    except TimeoutError:
        return hostname
