"""Object load with a model: per key, the versions that a read may show.

A worker is alone with its keys and does one thing after the other, so a key whose every change was
answered has exactly one content. A change without a certain answer leaves several; such a key is
only read from then on, because what is unknown may still happen later.
"""

import hashlib
import random
import re
import time

from tests.soak.tally import Tally
from tests.wire_clients import NOT_SENT, S3Client

BUCKET = "soak"
KEYS_MAX = 400
"""Keys of a worker that are changed; more than a listing's page is not needed here."""

PART_BYTES = 5 << 20

UPLOADS_MAX = 10
"""Uploads in parts of a worker: each is 10 MiB on three devices."""

SIZES = (0, 17, 900, 4_000, 5_000, 60_000, 70_000, 300_000, 1_500_000)


def content(key: str, version: int, size: int) -> bytes:
    """Bytes that belong to one version of one key only."""
    line = f"{key} {version};".encode()
    return (line * (size // len(line) + 1))[:size]


class _Key:
    """What is known of one key."""

    def __init__(self) -> None:
        self.allowed: set[tuple[int, int] | None] = {None}
        """(version, size) that it may have; None: it may be absent."""

    @property
    def certain(self) -> bool:
        return len(self.allowed) == 1

    @property
    def value(self) -> tuple[int, int] | None:
        """What it has, if that is certain."""
        (value,) = self.allowed
        return value


class ObjectWorker:
    """One client of the bucket."""

    def __init__(self, name: str, client: S3Client, tally: Tally, seed: int) -> None:
        self._name = name
        self._client = client
        self._tally = tally
        self._rng = random.Random(seed)
        self._keys: dict[str, _Key] = {}
        self._made = 0
        self._versions = 0
        self._uploads = 0

    def step(self) -> None:
        """One operation."""
        operations = {
            self._put: 6,
            self._create: 2,
            self._swap: 2,
            self._get: 6,
            self._delete: 2,
            self._list: 0.3,
            self._multipart: 0.2,
        }
        (operation,) = self._rng.choices(list(operations), list(operations.values()))
        operation()

    def verify(self) -> None:
        """Read every key, and the listing."""
        for name in self._keys:
            self._read(name, "verify")
        self._list()

    def _new(self) -> str:
        self._made += 1
        name = f"{self._name}/{self._made:06d}"
        self._keys[name] = _Key()
        return name

    def _certain(self) -> str | None:
        """A key that may be changed."""
        names = self._rng.sample(sorted(self._keys), min(5, len(self._keys)))
        return next((name for name in names if self._keys[name].certain), None)

    def _next(self, size: int | None = None) -> tuple[int, int]:
        self._versions += 1
        return self._versions, self._rng.choice(SIZES) if size is None else size

    def _change(
        self, operation: str, name: str, version: tuple[int, int], headers: dict[str, str]
    ) -> int:
        key = self._keys[name]
        status, _ = self._client.do(
            "PUT", f"/{BUCKET}/{name}", content(name, *version), headers=headers
        )
        if status == 200:
            key.allowed = {version}
            self._tally.succeeded("objects", operation)
        elif status != 412:
            self._uncertain(operation, status, name, version)
        return status

    def _uncertain(
        self, operation: str, status: int, name: str, value: tuple[int, int] | None
    ) -> None:
        """A change was not answered: it may have happened, and may yet, if it was sent."""
        self._tally.failed(operation, status)
        if status == NOT_SENT:
            time.sleep(0.1)
        else:
            self._keys[name].allowed.add(value)

    def _put(self) -> None:
        fresh = len(self._keys) < KEYS_MAX and self._rng.random() < 0.5
        name = self._new() if fresh else self._certain()
        if name is not None:
            self._change("put", name, self._next(), {})

    def _create(self) -> None:
        if len(self._keys) < KEYS_MAX:
            name = self._new()
            if self._change("put if absent", name, self._next(), {"if-none-match": "*"}) == 412:
                self._tally.violated(f"{name}: the first creation was refused with 412")

    def _swap(self) -> None:
        name = self._certain()
        value = self._keys[name].value if name else None
        if name is None or value is None or value[1] > PART_BYTES:
            return  # an upload in parts has another kind of ETag
        etag = hashlib.md5(content(name, *value), usedforsecurity=False).hexdigest()
        if self._change("put if match", name, self._next(), {"if-match": f'"{etag}"'}) == 412:
            self._tally.violated(f"{name}: version {value} was there, If-Match said 412")

    def _delete(self) -> None:
        name = self._certain()
        if name is None:
            return
        status, _ = self._client.do("DELETE", f"/{BUCKET}/{name}")
        if status == 204:
            self._keys[name].allowed = {None}
            self._tally.succeeded("objects", "delete")
        else:
            self._uncertain("delete", status, name, None)

    def _multipart(self) -> None:
        if self._uploads == UPLOADS_MAX:
            return
        self._uploads += 1
        name = self._new()
        version = self._next(2 * PART_BYTES + 1000)
        whole = content(name, *version)
        path = f"/{BUCKET}/{name}"
        status, answer = self._client.do("POST", path, query="uploads=")
        found = re.search(rb"<UploadId>(.*?)</UploadId>", answer)
        if status != 200 or found is None:
            self._tally.failed("multipart begin", status)
            return
        upload = found[1].decode()
        parts = []
        for number, start in enumerate(range(0, len(whole), PART_BYTES), 1):
            piece = whole[start : start + PART_BYTES]
            query = f"partNumber={number}&uploadId={upload}"
            status, _ = self._client.do("PUT", path, piece, query=query)
            if status != 200:
                self._tally.failed("multipart part", status)
                self._client.do("DELETE", path, query=f"uploadId={upload}")
                return
            etag = self._client.headers["etag"]
            parts.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        document = f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>"
        status, answer = self._client.do(
            "POST", path, document.encode(), query=f"uploadId={upload}"
        )
        if status == 200 and b"<Error>" not in answer:
            self._keys[name].allowed = {version}
            self._tally.succeeded("objects", "multipart")
        else:
            self._uncertain("multipart complete", status, name, version)

    def _get(self) -> None:
        if self._keys:
            self._read(self._rng.choice(sorted(self._keys)), "get")

    def _read(self, name: str, operation: str) -> None:
        key = self._keys[name]
        status, found = self._client.do("GET", f"/{BUCKET}/{name}")
        if status == 404:
            if None not in key.allowed:
                self._tally.violated(f"{name}: {sorted(map(str, key.allowed))} and it is absent")
        elif status == 200:
            values = [value for value in key.allowed if value is not None]
            if not any(found == content(name, *value) for value in values):
                shown = found[:40]
                self._tally.violated(f"{name}: {values} and it holds {shown!r} ({len(found)})")
            self._tally.verified(len(found))
        else:
            self._tally.failed(operation, status)
            if operation == "verify":
                self._tally.violated(f"{name}: cannot be read after the healing: {status}")
            return
        self._tally.succeeded("objects", operation)

    def _list(self) -> None:
        query = f"list-type=2&max-keys=1000&prefix={self._name}%2F"
        status, answer = self._client.do("GET", f"/{BUCKET}", query=query)
        if status != 200:
            self._tally.failed("list", status)
            return
        listed = [key.decode() for key in re.findall(rb"<Key>(.*?)</Key>", answer)]
        if listed != sorted(set(listed)):
            self._tally.violated(f"{self._name}: a listing out of order or with doubles")
        shown = set(listed)
        for name, key in self._keys.items():
            if key.certain and (name in shown) != (key.value is not None):
                there = "is not listed" if key.value else "is listed"
                self._tally.violated(f"{name}: {key.value}, and it {there}")
        self._tally.succeeded("objects", "list")
