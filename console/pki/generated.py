"""The certificate sets that the Console makes for itself: kept sealed in the store, shown as files (D7)."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from common.certificates import (
    CertificateSet,
    MintOptions,
    Names,
    Role,
    publish_generation,
)
from common.errors import CertificateSetError, DataFolderError, StoreError
from console.pki.install import InstallBundle, Refused, install_bundle
from console.pki.material import (
    CA_FILES,
    Material,
    choose,
    current_sets,
    ended,
    mint_material,
    reissue,
    seal,
    seal_files,
    unseal,
    view,
)
from console.sealing import Key
from console.store import Kind, Store

VIEW_NAME: Final = "certificates"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    """What is in force after an `ensure`."""

    sets: Mapping[Role, CertificateSet]
    files: Mapping[str, bytes] = field(repr=False)


class GeneratedSets:
    """The generated sets of this Console.

    Call `ensure` first. The store is the truth, `<DATA_FOLDER>/certificates` a view of it that is rebuilt
    whenever it differs; the keys of the CAs are in the store only, sealed.

    Args:
        store: Where they are kept.
        key: What they are sealed with.
        options: What the certificates are to say; `generation` is set here.
        communication_port: COMMUNICATION_PORT, for install bundles.
    """

    def __init__(self, store: Store, key: Key, options: MintOptions, *, communication_port: int) -> None:
        self._store = store
        self._key = key
        self._options = options
        self._port = communication_port
        self._state: _State | None = None
        self._turn = asyncio.Lock()

    @property
    def view(self) -> Path:
        """The folder that shows the sets."""
        return self._store.data_folder / VIEW_NAME

    async def ensure(self, now: datetime) -> None:
        """Make what is missing, reissue what lacks a configured name, and show the rest as it is.

        At a first start, and where every CA has expired, a generation is minted: one transaction, then the
        view. A crash in between leaves the view to the next start.

        Raises:
            StoreError: if the store can't be used, or what is sealed in it can't be opened.
            CertificateSetError: if a set may not be used (a clock that is far behind, say).
            DataFolderError: if the view can't be written.
        """
        async with self._turn:
            self._state = await self._ensure(now)

    async def _ensure(self, now: datetime) -> _State:
        materials = {kind: await self._load(kind) for kind in Kind}
        due = [kind for kind, known in materials.items() if ended(known, now)]
        if due:
            await self._mint(due, materials, now)
            materials = {kind: await self._load(kind) for kind in Kind}
        chosen = {kind: choose(known, now) or known[0] for kind, known in materials.items()}
        for kind, material in chosen.items():
            chosen[kind] = await self._reissue(material, now)
        defender, console = chosen[Kind.DEFENDER], chosen[Kind.CONSOLE]
        sets, faults = current_sets(defender, console, now)
        if faults:
            raise CertificateSetError("the generated certificates", faults)
        files = view(defender, console)
        await asyncio.to_thread(self._publish, defender.number, files)
        return _State(MappingProxyType(sets), MappingProxyType(files))

    def current(self, role: Role) -> CertificateSet:
        """The set of a role that is in force."""
        return self._ensured.sets[role]

    def ca_pem(self) -> bytes:
        """The Console CA's certificate, PEM: what clients of web UI and API trust."""
        return self._ensured.files[CA_FILES[Kind.CONSOLE][0]]

    def install_bundle(
        self, address: str, defender_type: str, *, names: Names | None = None
    ) -> InstallBundle | Refused:
        """What to deploy a Defender with that dials this Console by `address`, or why there is none.

        Args:
            address: A host name or an address.
            defender_type: What it is for.
            names: What the certificate that Defenders see vouches for; by default that of our own set.
        """
        return install_bundle(
            self._ensured.files,
            self.current(Role.DEFENDER_SERVER).names if names is None else names,
            address=address,
            port=self._port,
            defender_type=defender_type,
        )

    @property
    def _ensured(self) -> _State:
        assert self._state is not None, "ensure comes first"
        return self._state

    async def _load(self, kind: Kind) -> list[Material]:
        """All generations, newest first."""
        found = []
        for record in await self._store.generations.list(kind):
            material = await asyncio.to_thread(unseal, record, self._key)
            if not isinstance(material, Material):
                raise StoreError(
                    str(self._store.data_folder),
                    f"the sealed {', '.join(material)} of {kind} generation {record.number} can't be opened",
                    "restore the store, with its master key, from a backup",
                )
            found.append(material)
        return found

    async def _mint(self, kinds: list[Kind], known: Mapping[Kind, list[Material]], now: datetime) -> None:
        fresh = []
        for kind in kinds:
            number = max((material.number for material in known[kind]), default=0) + 1
            if number > 1:
                _log.warning("The %s CA has expired; making generation %d", kind, number)
            elif kind is Kind.DEFENDER and self.view.exists():
                # The store is gone, or another folder's: said once, before the old view is replaced.
                _log.warning(
                    "%s shows the certificates of an earlier store; Defenders that were deployed with them "
                    "will be refused: restore that store from a backup, or deploy them again",
                    self.view,
                )
            fresh.append(await asyncio.to_thread(mint_material, kind, number, self._options, now))
        # False: another Console on this store was faster, and what it made is what counts.
        if await self._store.generations.add(*(seal(material, self._key) for material in fresh)):
            for material in fresh:
                _log.info("Made %s", material.authority.certificate.subject)

    async def _reissue(self, material: Material, now: datetime) -> Material:
        files = await asyncio.to_thread(reissue, material, self._options, now)
        if not files:
            return material
        sealed = seal_files(material.kind, material.number, files, self._key)
        await self._store.generations.replace(material.kind, material.number, sealed)
        _log.info("Reissued %s for %s", ", ".join(files), self._options.names)
        return replace(material, leaves={**material.leaves, **files})

    def _publish(self, number: int, files: Mapping[str, bytes]) -> None:
        try:
            publish_generation(self.view, f"generation-{number}", files)
        except OSError as error:
            fault = f"cannot be written ({error.strerror})"
            remedy = "correct that and start again; the store has the certificates"
            raise DataFolderError(str(self.view), fault, remedy) from error
