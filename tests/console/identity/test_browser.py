import pytest
from multidict import CIMultiDict

from console.identity.browser import sent_by_other_site

HOST = "console.example:8083"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://console.example:8083"},
        {"origin": "https://CONSOLE.example:8083"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
    ],
)
def test_ours(headers: dict[str, str]) -> None:
    assert not sent_by_other_site(CIMultiDict(headers | {"Host": HOST}))


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"sec-fetch-site": "whatever comes"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://["},
        {"Origin": "https://[v1.x]:8083"},
        {"Origin": "https://\u2100.example"},
        {"Origin": "\udcff"},
        {"Origin": "https://console.example"},
        {"Origin": "https://evil.example:8083"},
        {"Origin": "https://console.example:8083.evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://console.example:8083"},
    ],
)
def test_another_sites(headers: dict[str, str]) -> None:
    assert sent_by_other_site(CIMultiDict(headers | {"Host": HOST}))


def test_without_a_host_no_origin_is_ours() -> None:
    assert sent_by_other_site(CIMultiDict({"Origin": "https://console.example:8083"}))
    assert not sent_by_other_site(CIMultiDict({}))
