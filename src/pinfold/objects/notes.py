"""An account's list of its buckets: hints beside the buckets' own rows, which alone decide.

A note that is not *live* is an intent: the bucket is being created or deleted, and whoever lists it
looks at the bucket's own row. Every change of a note allows for somebody else having been there:
the note is then about another life of the bucket's name, or others look after it.
"""

import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Check, Row, Rows
from pinfold.model.errors import Busy, Conflict
from pinfold.model.ids import OpId
from pinfold.objects import keys
from pinfold.objects.records import BucketListRecord, decode, encode

ATTEMPTS: Final = 16
"""Rounds of reading a note before its changing meanwhile counts as too much."""


class Notes:
    """Writes and removes them."""

    def __init__(self, rows: Rows, op_id: Callable[[], OpId]) -> None:
        self._rows = rows
        self._op_id = op_id

    async def write(self, owner: str, name: str, note: BucketListRecord, *checks: Check) -> int:
        """Write a note; its version. Conflict."""
        key = keys.account_bucket_key(owner.encode(), name.encode())
        change = Change(self._op_id(), checks=checks, puts=((key, Row(encode(note))),))
        return (await self._rows.change(keys.account_place(owner.encode()), change)).version

    async def rewrite(self, owner: str, name: str, note: BucketListRecord, version: int) -> None:
        """Write a note unless somebody else did since `version`."""
        key = keys.account_bucket_key(owner.encode(), name.encode())
        with contextlib.suppress(Conflict):
            await self.write(owner, name, note, Check("version", key, number=version))

    async def confirm(self, owner: str, name: str, intent: BucketListRecord, version: int) -> None:
        """Make an intent live; one that somebody gave up, by a clock ahead of ours, comes back.

        As an intent: the bucket may have been deleted since, and listings look.
        """
        key = keys.account_bucket_key(owner.encode(), name.encode())
        live = msgspec.structs.replace(intent, live=True)
        try:
            await self.write(owner, name, live, Check("version", key, number=version))
        except Conflict:
            with contextlib.suppress(Conflict):
                await self.write(owner, name, intent, Check("absent", key))

    async def doubt(self, owner: str, name: str) -> None:
        """Make the note an intent, or write it again if it is one, whatever life it is about.

        Whoever read it before, and found the bucket, does not make it live any more. An intent of
        another life may stand in the place of the bucket's own: of a creator who came too late.
        """
        key = keys.account_bucket_key(owner.encode(), name.encode())
        for _ in range(ATTEMPTS):
            row = await self._read(owner, name)
            if row is None:
                return
            note = msgspec.structs.replace(decode(BucketListRecord, row.body), live=False)
            with contextlib.suppress(Conflict):  # it may just have been made live: once more
                await self.write(owner, name, note, Check("version", key, number=row.version))
                return
        raise Busy("others keep changing the account's list")

    async def remove(self, owner: str, name: str, note: BucketListRecord) -> None:
        """Remove the note if it still is about this life of the bucket."""
        row = await self._read(owner, name)
        if row is None or decode(BucketListRecord, row.body).life != note.life:
            return
        key = keys.account_bucket_key(owner.encode(), name.encode())
        check = Check("version", key, number=row.version)
        change = Change(self._op_id(), checks=(check,), deletes=(key,))
        with contextlib.suppress(Conflict):  # then it is about another life by now
            await self._rows.change(keys.account_place(owner.encode()), change)

    async def _read(self, owner: str, name: str) -> Row | None:
        key = keys.account_bucket_key(owner.encode(), name.encode())
        return await self._rows.get(keys.account_place(owner.encode()), key)
