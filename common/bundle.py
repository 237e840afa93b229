"""The install bundle: what a Defender without a mounted Secret is given, as one text (product facts §7).

Base64 of a JSON object::

    {"secrets": {"defender-ca.pem": "-----BEGIN …", …},
     "globalProxyOpt": {"httpProxy": "", "noProxy": "", "ca": "", "user": "", "password": {"encrypted": ""}},
     "microsegCompatible": false}

A newer Console may add to it; what is unknown here is passed over.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec

from common.errors import BundleError

MAX_BUNDLE: Final = 1 << 20
"""Characters of a bundle; one with two certificate sets has about 12,000."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_REMEDY: Final = "copy it again, whole, from the Console (garrison console install-bundle)"


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy between a Defender and its Console; empty where there is none.

    Attributes:
        http_proxy: Its URL.
        no_proxy: What to reach without it.
        ca: PEM of a CA that it is verified by.
        user: Who to be to it.
        password: The encrypted password.
    """

    http_proxy: str = ""
    no_proxy: str = ""
    ca: str = ""
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds.

    Attributes:
        secrets: File name → PEM; the names are those of product facts §1 and never lead out of a folder.
            Empty where a Secret is mounted instead.
        proxy: The proxy.
        microseg_compatible: A field of the product's that means nothing to Garrison.
    """

    secrets: Mapping[str, bytes] = field(repr=False)
    proxy: Proxy = Proxy()
    microseg_compatible: bool = False


class _Password(msgspec.Struct):
    encrypted: str = ""


class _Proxy(msgspec.Struct, rename="camel"):
    http_proxy: str = ""
    no_proxy: str = ""
    ca: str = ""
    user: str = ""
    password: _Password = msgspec.field(default_factory=_Password)


class _Bundle(msgspec.Struct, rename="camel"):
    secrets: dict[str, str]
    global_proxy_opt: _Proxy = msgspec.field(default_factory=_Proxy)
    microseg_compatible: bool = False


def encode_bundle(bundle: Bundle) -> str:
    """The text of a bundle; the same for the same bundle."""
    proxy = bundle.proxy
    wire = _Bundle(
        {name: pem.decode("ascii") for name, pem in sorted(bundle.secrets.items())},
        _Proxy(proxy.http_proxy, proxy.no_proxy, proxy.ca, proxy.user, _Password(proxy.password)),
        bundle.microseg_compatible,
    )
    return base64.b64encode(msgspec.json.encode(wire)).decode("ascii")


def decode_bundle(text: str, *, origin: str = "INSTALL_BUNDLE") -> Bundle:
    """Read a bundle's text; white space in it, as mail and YAML add it, doesn't matter.

    Args:
        text: The bundle.
        origin: Where it came from, for the error.

    Raises:
        BundleError: if it is too large, not base64, not JSON, not a bundle, or names a file that is none.
    """
    if len(text) > MAX_BUNDLE:
        raise BundleError(origin, f"is longer than {MAX_BUNDLE} characters", _REMEDY)
    # The causes are left out of the errors: they may quote what is secret.
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BundleError(origin, "is not base64 (incomplete?)", _REMEDY) from None
    try:
        wire = msgspec.json.decode(data, type=_Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BundleError(origin, "does not hold what an install bundle holds", _REMEDY) from None
    for name, pem in wire.secrets.items():
        if not _NAME.fullmatch(name):
            raise BundleError(origin, f"names a file that it may not: {name[:64]!r}", _REMEDY)
        if not pem.isascii():
            raise BundleError(origin, f"holds something else than PEM as {name}", _REMEDY)
    secrets = {name: pem.encode("ascii") for name, pem in wire.secrets.items()}
    opt = wire.global_proxy_opt
    proxy = Proxy(opt.http_proxy, opt.no_proxy, opt.ca, opt.user, opt.password.encrypted)
    return Bundle(MappingProxyType(secrets), proxy, wire.microseg_compatible)
