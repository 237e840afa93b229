"""What is measured on: the facts of this machine, and which of its cores serves and which loads."""

import os
import platform
import re
import resource
import ssl
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the servers and the core of the load; the same one where there is no second."""

    server: int
    load: int

    @classmethod
    def of_this_process(cls) -> "Cores":
        permitted = sorted(os.sched_getaffinity(0))
        return cls(permitted[0], permitted[-1])

    @property
    def shared(self) -> bool:
        return self.server == self.load


@dataclass(frozen=True, slots=True)
class Machine:
    """What a ratio depends on."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    openssl: str
    uvloop: str
    nginx: str
    go: str

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def look() -> Machine:
    """The facts of this machine; what is not installed is "none"."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        system=f"{platform.freedesktop_os_release().get('PRETTY_NAME', '?')}, Linux {platform.release()}",
        python=platform.python_version(),
        openssl=ssl.OPENSSL_VERSION.removeprefix("OpenSSL "),
        uvloop=_package("uvloop"),
        nginx=_said("nginx", "-v", pattern=r"nginx/(\S+)"),
        go=_said("go", "version", pattern=r"go(\d\S+)"),
    )


def _cpu() -> str:
    names = re.findall(
        r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE
    )
    return names[0] if names else platform.machine()


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _said(*command: str, pattern: str) -> str:
    """What a program says of itself, on either stream."""
    environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=10
        )
    except FileNotFoundError:
        return "none"
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "none"


def raise_file_limit(wanted: int) -> int:
    """Let this process and its children open `wanted` files, or as many as the system permits.

    Returns:
        The limit that holds now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for ceiling in (max(hard, wanted), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, ceiling)), ceiling))
        except (ValueError, PermissionError):
            continue  # only root may raise the hard limit
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
