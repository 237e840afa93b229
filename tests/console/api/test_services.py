from console.api import Certificates, Services
from console.pki import GeneratedSets


def fits(sets: GeneratedSets) -> Certificates:
    """What serves for tests and what serves for real have one interface: mypy proves it here."""
    return sets


def test_services_are_named() -> None:
    assert set(Services.__slots__) == {"identity", "directory", "certificates", "live", "clock"}
    assert fits.__annotations__["return"] is Certificates
