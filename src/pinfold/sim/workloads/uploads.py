"""Rivals on multipart uploads: whoever knows of an upload adds to it, lists it, ends it.

Open uploads are on the bench for all clients, with every part that anybody may have stored: so one
upload is completed of different parts, aborted and added to at the same time.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from pinfold.model.errors import PinfoldError
from pinfold.objects.conditions import NoSuchKey
from pinfold.sim.checkers.history import GARBLED, Call, Kind
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads import s3
from pinfold.sim.workloads.bench import DESCRIPTION, Bench
from pinfold.sim.workloads.s3 import User

NUMBERS: Final = (1, 2, 3)
"""Numbers of parts: few, so that they are replaced."""

_AGAIN: Final = 0.4
"""How often a part is stored whose number is known to be taken."""

_SIZES: Final = (12, 200, 1500, 6000, 6000, 20_000, 80_000)

_MOMENT_S: Final = 0.015
"""About as long as a Complete takes."""

_KNOWN_MAX: Final = 3
"""Uploads known at a time; of more the oldest is forgotten and stays open."""


@dataclass(slots=True)
class Upload:
    """An upload as the clients know it."""

    bucket: str
    name: str
    id: str
    user: User
    description: str
    """What its object will say it is."""
    parts: dict[int, list[tuple[str, bytes]]] = field(default_factory=dict)
    """By number, tokens and contents that were stored, oldest first."""


class Uploader:
    """One client's part in it."""

    def __init__(
        self,
        bench: Bench,
        client: str,
        rng: random.Random,
        condition: Callable[[tuple[str, str]], tuple[str | None, dict[str, str]]],
    ) -> None:
        self._bench = bench
        self._client = client
        self._rng = rng
        self._condition = condition

    async def act(self, gateway: str, bucket: str, name: str, user: User) -> None:
        """Open an upload of this object, or do something with one that is open."""
        known = self._bench.uploads
        if not known or self._rng.random() < 0.2:
            await self._open(gateway, bucket, name, user)
            return
        upload = self._rng.choice(known)
        acts = {
            self._part: 4,
            self._copy_part: 1,
            self._list_parts: 1,
            self._list_uploads: 1,
            self._complete: 2 if upload.parts else 0,
            self._contend: 2 if upload.parts else 0,
            self.abort: 1,
        }
        (act,) = self._rng.choices(list(acts), list(acts.values()))
        await act(gateway, upload)

    async def _open(self, gateway: str, bucket: str, name: str, user: User) -> None:
        bench = self._bench
        call = bench.recorder.begin(self._client, "open", bucket=bucket, name=name, user=user.id)

        description = f"upload {bench.new_token(self._client)}"

        async def request(process: GatewayProcess) -> str:
            path, headers = f"/{bucket}/{name}", {DESCRIPTION: description}
            answer = await s3.call(process, user, "POST", path, {"uploads": ""}, headers)
            return answer.document.findtext("UploadId", "")

        upload = await bench.recorded(call, gateway, request, lambda upload: upload)
        if upload is not None:
            bench.uploads.append(Upload(bucket, name, upload, user, description))
            del bench.uploads[:-_KNOWN_MAX]

    def _number(self, upload: Upload) -> int:
        """Of a part to be stored: often in place of another."""
        again = upload.parts and self._rng.random() < _AGAIN
        return self._rng.choice(list(upload.parts) if again else NUMBERS)

    async def _part(self, gateway: str, upload: Upload) -> None:
        bench, number = self._bench, self._number(upload)
        token, content = bench.new_value(self._client, self._rng.choice(_SIZES))
        call = self._begin("part", upload, value=token, part=number)

        async def request(process: GatewayProcess) -> None:
            query = {"partNumber": str(number), "uploadId": upload.id}
            path = f"/{upload.bucket}/{upload.name}"
            await s3.call(process, upload.user, "PUT", path, query, body=content)

        await self._bench.recorded(call, gateway, request)
        # Of unknown fate it may be there, too: who names it hears.
        if call.operation.outcome != "refused":
            upload.parts.setdefault(number, []).append((token, content))

    async def _copy_part(self, gateway: str, upload: Upload) -> None:
        """Add a part made of a range of an object that somebody has seen, if it still is there."""
        bench, rng = self._bench, self._rng
        if not bench.seen:
            return
        source = rng.choice(list(bench.seen))
        seen, number = bench.seen[source], self._number(upload)
        content = bench.content_of(seen)
        if not content:
            return
        first = rng.randrange(len(content))
        last = rng.randrange(first, len(content))
        part = content[first : last + 1]
        token = bench.know_part(self._client, part)
        call = self._begin("part", upload, value=token, part=number)

        async def request(process: GatewayProcess) -> str:
            query = {"partNumber": str(number), "uploadId": upload.id}
            headers = {
                "x-amz-copy-source": s3.copy_source(*source),
                "x-amz-copy-source-if-match": bench.tags_of(seen),
                "x-amz-copy-source-range": f"bytes={first}-{last}",
            }
            path = f"/{upload.bucket}/{upload.name}"
            try:
                answer = await s3.copied(process, upload.user, path, query, headers=headers)
            except NoSuchKey as error:
                raise s3.Unclear("the source is gone, not the upload") from error
            return answer.document.findtext("ETag", "").strip('"')

        await bench.recorded(call, gateway, request, bench.token_of_part)
        if call.operation.outcome != "refused":
            upload.parts.setdefault(number, []).append((token, part))

    async def _list_parts(self, gateway: str, upload: Upload) -> None:
        """All pages of an upload's parts."""
        calls = {number: self._begin("list-parts", upload, part=number) for number in NUMBERS}
        query = {"uploadId": upload.id, "max-parts": str(self._rng.choice((1, 2, 1000)))}

        async def request(process: GatewayProcess) -> dict[int, str]:
            path, found = f"/{upload.bucket}/{upload.name}", dict[int, str]()
            while True:
                answer = await s3.call(process, upload.user, "GET", path, query)
                numbers = list(map(int, s3.texts(answer, "Part/PartNumber")))
                if sorted({*found, *numbers}) != [*found, *numbers]:
                    return dict.fromkeys(NUMBERS, GARBLED)
                found |= zip(numbers, s3.texts(answer, "Part/ETag"), strict=True)
                if answer.document.findtext("IsTruncated") != "true":
                    return found
                query["part-number-marker"] = answer.document.findtext("NextPartNumberMarker", "")

        asked = self._bench.ask(self._client, gateway, f"parts of {upload.id}", request)
        shown = await self._bench.outcome(asked)
        for number, call in calls.items():

            def token_of(parts: dict[int, str], number: int = number) -> str | None:
                etag = parts.get(number)
                return None if etag is None else self._bench.token_of_part(etag.strip('"'))

            await self._bench.record(call, shown(), token_of)

    async def _list_uploads(self, gateway: str, upload: Upload) -> None:
        """All pages of the bucket's open uploads, or of some names'."""
        bench, limit = self._bench, self._rng.choice((1, 1000))
        prefix, after = self._rng.choice(("", "", "a", "b/")), self._rng.choice(("", "", "a", "b"))
        query = {"uploads": "", "max-uploads": str(limit), "encoding-type": "url"}
        query |= {name: text for name, text in (("prefix", prefix), ("key-marker", after)) if text}
        began = bench.recorder.instant()
        found: list[str] = []
        names: list[str] = []
        while True:

            async def request(process: GatewayProcess) -> s3.Answer:
                user = bench.owner_of(upload.bucket)
                return await s3.call(process, user, "GET", f"/{upload.bucket}", query)

            try:
                answer = await bench.ask(
                    self._client, gateway, f"uploads in {upload.bucket}", request
                )
            except (PinfoldError, Down, ProcessDied, TimeoutError):
                bench.account.count("list-uploads failed")
                return
            found += s3.texts(answer, "Upload/UploadId")
            names += map(unquote, s3.texts(answer, "Upload/Key"))
            if answer.document.findtext("IsTruncated") != "true":
                break
            query["key-marker"] = unquote(answer.document.findtext("NextKeyMarker", ""))
            query["upload-id-marker"] = answer.document.findtext("NextUploadIdMarker", "")
        bench.recorder.uploads_page(
            self._client,
            bucket=upload.bucket,
            prefix=prefix,
            after=after,
            began=began,
            uploads=list(zip(found, names, strict=True)),
        )
        bench.account.count("list-uploads ok")

    async def _contend(self, gateway: str, upload: Upload) -> None:
        """Complete, and do something else to the upload in the same moment."""
        rng = self._rng
        rival = rng.choice((self.abort, self._part, self._complete))
        other = rng.choice(self._bench.plan.front)

        async def a_little_later() -> None:
            await asyncio.sleep(rng.uniform(0.0, _MOMENT_S))
            await rival(other, upload)

        async with asyncio.TaskGroup() as both:
            both.create_task(self._complete(gateway, upload))
            both.create_task(a_little_later())

    async def abort(self, gateway: str, upload: Upload) -> None:
        """Abort an upload, whoever opened it."""
        call = self._begin("abort", upload)

        async def request(process: GatewayProcess) -> None:
            path = f"/{upload.bucket}/{upload.name}"
            await s3.call(process, upload.user, "DELETE", path, {"uploadId": upload.id})

        await self._bench.recorded(call, gateway, request)
        self._ended(call, upload)

    async def _complete(self, gateway: str, upload: Upload) -> None:
        bench, rng = self._bench, self._rng
        numbers = sorted(rng.sample(sorted(upload.parts), rng.randint(1, len(upload.parts))))
        chosen = {
            number: upload.parts[number][-1]
            if rng.random() < 0.7
            else rng.choice(upload.parts[number])
            for number in numbers
        }
        sums = {
            number: hashlib.md5(content, usedforsecurity=False)
            for number, (_, content) in chosen.items()
        }
        joined = b"".join(one.digest() for one in sums.values())
        etag = f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(chosen)}"
        token = bench.know_parts(
            self._client, b"".join(content for _, content in chosen.values()), etag
        )
        bench.say(token, upload.description)
        condition, headers = self._condition((upload.bucket, upload.name))
        call = self._begin(
            "complete",
            upload,
            value=token,
            condition=condition,
            parts=tuple((number, part) for number, (part, _) in chosen.items()),
        )

        async def request(process: GatewayProcess) -> str:
            document = s3.parts_document([(n, one.hexdigest()) for n, one in sums.items()])
            query, path = {"uploadId": upload.id}, f"/{upload.bucket}/{upload.name}"
            answer = await s3.call(
                process, upload.user, "POST", path, query, headers=headers, body=document
            )
            return answer.document.findtext("ETag", "").strip('"')

        await self._bench.recorded(call, gateway, request, bench.token_of_etag)
        self._ended(call, upload)

    def _ended(self, call: Call, upload: Upload) -> None:
        """Forget an upload that has ended, but not at once: others may still try."""
        operation = call.operation
        over = operation.outcome == "ok" or operation.error == "not-found"
        if over and upload in self._bench.uploads and self._rng.random() < 0.7:
            self._bench.uploads.remove(upload)

    def _begin(
        self,
        kind: Kind,
        upload: Upload,
        *,
        value: str | None = None,
        condition: str | None = None,
        part: int = 0,
        parts: tuple[tuple[int, str], ...] = (),
    ) -> Call:
        return self._bench.recorder.begin(
            self._client,
            kind,
            bucket=upload.bucket,
            name=upload.name,
            value=value,
            condition=condition,
            upload=upload.id,
            user=upload.user.id,
            part=part,
            parts=parts,
        )
