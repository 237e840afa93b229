from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import msgspec

from common.certificates import Source
from common.protocol import Fields
from defender import facts
from defender.credentials import CredentialSource
from defender.identity import load_or_create
from defender.report import state_report
from defender.spool import Spool
from tests.defender.pki import Pki
from tests.defender.running import settings_for
from tests.defender.test_connection import Recorder, new_link


async def test_a_report_is_flat_and_holds_no_secret(pki: Pki, tmp_path: Path) -> None:
    settings = settings_for(8084, tmp_path, INSTALL_BUNDLE=pki.bundle())
    credentials = CredentialSource(settings.install_bundle, tmp_path).load(datetime.now(UTC))
    spool = Spool(tmp_path)
    spool.append(b"{}")
    key = load_or_create(tmp_path)
    value = state_report(
        settings,
        host=await facts.gather(defender_type="docker", override="x"),
        key=key,
        held=[credentials],
        proved=set(),
        spool=spool,
        link=await new_link(pki, tmp_path, Recorder()),
    )
    both = state_report(
        settings,
        host=facts.UNKNOWN,
        key=key,
        held=[pki.reissued().credentials(Source.CUSTOM), credentials],
        proved={credentials.set.fingerprint},
        spool=spool,
        link=await new_link(pki, tmp_path, Recorder()),
    )
    spool.close()
    told = cast("list[dict[str, object]]", both["certificates"])
    assert [(one["source"], one["proved"], one["inUse"]) for one in told] == [
        ("custom", False, False),
        ("generated", True, True),
    ]
    # What the protocol carries, and nothing deeper.
    assert msgspec.convert(value, Fields) == value
    assert value["instanceKey"] == key.fingerprint
    text = msgspec.json.encode(value).decode()
    assert '"held":1' in text
    assert '"proved":false,"inUse":true' in text
    assert "PRIVATE" not in text
    assert settings.install_bundle[:40] not in text
    assert '"connection":{"address":"wss://127.0.0.1:8084"' in text
