"""The install bundle, both ways."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.bundle import MAX_BUNDLE, Bundle, Proxy, decode_bundle, encode_bundle
from common.errors import BundleError

PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
SECRETS = {"defender-ca.pem": PEM, "defender-client-key.pem": KEY}
PROXY = Proxy("http://proxy:3128", "localhost,.example", "ca pem", "user", "encrypted")


def text_of(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def test_its_json_has_the_products_names() -> None:
    wire = json.loads(base64.b64decode(encode_bundle(Bundle(SECRETS, PROXY, microseg_compatible=True))))
    assert wire == {
        "secrets": {name: pem.decode() for name, pem in SECRETS.items()},
        "globalProxyOpt": {
            "httpProxy": "http://proxy:3128",
            "noProxy": "localhost,.example",
            "ca": "ca pem",
            "user": "user",
            "password": {"encrypted": "encrypted"},
        },
        "microsegCompatible": True,
    }


@pytest.mark.parametrize(
    "bundle", [Bundle(SECRETS), Bundle(SECRETS, PROXY, microseg_compatible=True), Bundle({})]
)
def test_what_is_encoded_is_decoded(bundle: Bundle) -> None:
    assert decode_bundle(encode_bundle(bundle)) == bundle


def test_the_same_bundle_is_the_same_text() -> None:
    assert encode_bundle(Bundle(SECRETS)) == encode_bundle(Bundle(dict(reversed(SECRETS.items()))))


def test_white_space_does_not_matter() -> None:
    text = encode_bundle(Bundle(SECRETS))
    wrapped = " \n".join(text[start : start + 64] for start in range(0, len(text), 64)) + "\r\n"
    assert decode_bundle(wrapped) == Bundle(SECRETS)


def test_what_a_newer_console_adds_is_passed_over() -> None:
    text = text_of({"secrets": {}, "new": [1], "globalProxyOpt": {"newer": 1}})
    assert decode_bundle(text) == Bundle({})


def test_keys_are_not_shown() -> None:
    shown = repr(Bundle(SECRETS, PROXY))
    assert "PRIVATE KEY" not in shown
    assert "'encrypted'" not in shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not hold"),
        ("not base64!", "is not base64"),
        ("abc", "is not base64"),
        ("ü", "is not base64"),
        (base64.b64encode(b"no json").decode(), "does not hold"),
        (base64.b64encode(b"\xff\xfe").decode(), "does not hold"),
        (base64.b64encode(b"[" * 100_000).decode(), "does not hold"),
        (text_of([]), "does not hold"),
        (text_of({}), "does not hold"),
        (text_of({"secrets": None}), "does not hold"),
        (text_of({"secrets": {"a.pem": 1}}), "does not hold"),
        (text_of({"secrets": {}, "globalProxyOpt": "x"}), "does not hold"),
        (text_of({"secrets": {"a.pem": "ü"}}), "something else than PEM as a.pem"),
        ("A" * (MAX_BUNDLE + 4), "is longer than"),
    ],
)
def test_bad_bundles_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(BundleError, match=says) as caught:
        decode_bundle(text)
    assert str(caught.value).startswith("INSTALL_BUNDLE: ")
    assert "garrison console install-bundle" in caught.value.remedy
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name",
    ["../evil.pem", "/etc/passwd", ".", "..", ".hidden", "", "a/b", "a\0b", "a\nb", "x" * 200, "ü.pem"],
)
def test_a_name_never_leads_out_of_a_folder(name: str) -> None:
    with pytest.raises(BundleError, match="names a file that it may not"):
        decode_bundle(text_of({"secrets": {name: "pem"}}))


def test_errors_name_the_origin_and_quote_nothing_secret() -> None:
    broken = encode_bundle(Bundle(SECRETS))[:-40]
    for text in (broken, text_of({"secrets": {"key.pem": "geheim\u2028"}})):
        with pytest.raises(BundleError) as caught:
            decode_bundle(text, origin="bundle.txt")
        assert str(caught.value).startswith("bundle.txt: ")
        for secret in ("geheim", "secret", "c2Vj"):
            assert secret not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@settings(deadline=None, max_examples=100)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_whatever_it_is_it_is_a_bundle_or_an_error(data: bytes) -> None:
    for text in (data.decode("latin-1"), base64.b64encode(data).decode()):
        try:
            bundle = decode_bundle(text)
        except BundleError:
            continue
        assert isinstance(bundle, Bundle)


NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}", fullmatch=True)


@settings(deadline=None, max_examples=100)
@given(secrets=st.dictionaries(NAMES, st.text(st.characters(codec="ascii"), max_size=50).map(str.encode)))
def test_any_bundle_survives_the_way(secrets: dict[str, bytes]) -> None:
    assert decode_bundle(encode_bundle(Bundle(secrets))) == Bundle(secrets)
