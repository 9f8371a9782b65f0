"""One request on its way: what a verb gets, and what every verb asks first."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from pinfold.accounts.accounts import Accounts
from pinfold.accounts.sealing import Sealer
from pinfold.cluster.api import Blobs, Rows
from pinfold.env.api import Env
from pinfold.model.limits import KIB, OBJECT_NAME_BYTES
from pinfold.model.settings import S3Settings
from pinfold.objects.bucket import Authority, Bucket
from pinfold.objects.conditions import NoSuchKey
from pinfold.objects.objects import Found
from pinfold.objects.store import ObjectStore
from pinfold.s3 import acl, signature
from pinfold.s3.acl import Identity, Permission
from pinfold.s3.body import Payload, read_body
from pinfold.s3.documents import Documents
from pinfold.s3.errors import Refused
from pinfold.s3.request import EmptyBody, Request, Response
from pinfold.s3.signature import ChunkSigner
from pinfold.s3.xml import sayable


class Store(ObjectStore):
    """The use cases that verbs call; `on_split` as in `ObjectStore`."""

    def __init__(
        self,
        env: Env,
        rows: Rows,
        blobs: Blobs,
        sealer: Sealer,
        settings: S3Settings,
        *,
        on_split: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(env, rows, blobs, settings.objects, on_split=on_split)
        self.settings = settings
        self.clock = env.clock
        self.accounts = Accounts(env, rows, sealer, settings.accounts)
        self.documents = Documents(env, settings)

    def close(self) -> None:
        """See `ObjectStore`."""
        super().close()
        self.documents.close()


UNASKED_BYTES_MAX: Final = 64 * KIB
"""Longest body taken where there should be none: some clients send a word or two."""


class Call:
    """A request that is authenticated and routed."""

    __slots__ = ("_signer", "payload_hash", "request", "store", "who")

    def __init__(
        self,
        store: Store,
        request: Request,
        who: Identity,
        payload_hash: str,
        signer: ChunkSigner | None,
    ) -> None:
        self.store = store
        self.request = request
        self.who = who
        self.payload_hash = payload_hash
        self._signer = signer

    def payload(self, *, of_object: bool = False) -> Payload:
        """The request's body, see `Payload`. Ask once."""
        return Payload(self.request, self.payload_hash, self._signer, of_object=of_object)

    async def unasked_body(self) -> bytes:
        """The body that came with an operation that has no use for one.

        Refused when it is not what was signed: somebody else has put it there.
        """
        if isinstance(self.request.body, EmptyBody):
            content = b""
        elif self.payload_hash in signature.CHUNKED:
            content = await self.payload().whole(UNASKED_BYTES_MAX)
        else:
            content = await read_body(self.request.body, UNASKED_BYTES_MAX)
        signed = self.payload_hash
        if len(signed) == 64 and signed != hashlib.sha256(content).hexdigest():
            raise Refused("XAmzContentSHA256Mismatch")
        return content

    async def owner(self, user: str) -> Identity:
        """An owner as documents name it."""
        if user == self.who.user:
            return self.who
        return Identity(user, await self.store.accounts.display_name(user))

    @property
    def name(self) -> bytes:
        """The object's name. Refused when it is too long."""
        name = self.request.key.encode()
        if len(name) > OBJECT_NAME_BYTES:
            raise Refused("KeyTooLongError")
        return name

    @property
    def new_name(self) -> bytes:
        """The name of an object that is to be. Refused when no listing could show it."""
        if not sayable(self.request.key):
            raise Refused("InvalidArgument", "XML 1.0 has no characters for this key")
        return self.name

    async def bucket(self, permission: Permission | None, *, fresh: bool = False) -> Bucket:
        """The bucket named by the request, if the caller may do this to it.

        `fresh` reads its row now; otherwise it may be seconds old, see `Buckets.lookup`. None asks
        for no permission on the bucket itself. NotAllowed, NoSuchBucket.
        """
        name, authority = self.request.bucket, self._authority(permission)
        buckets = self.store.buckets
        return await (buckets.get(name, authority) if fresh else buckets.lookup(name, authority))

    def _authority(self, permission: Permission | None) -> Authority:
        """What the request may do to a bucket of its name, whoever owns that by then."""
        expected, who = self.request.headers.get("x-amz-expected-bucket-owner"), self.who

        def allows(bucket: Bucket) -> bool:
            if expected is not None and expected != bucket.owner:
                return False
            return permission is None or acl.allows(bucket.acl, permission, who, owner=bucket.owner)

        return allows

    async def owned_bucket(self) -> Bucket:
        """The bucket, for what only its owner may do."""
        bucket = await self.bucket(None, fresh=True)
        self.demand(self.owns(bucket.owner))
        return bucket

    def owns(self, owner: str) -> bool:
        """Whether the caller is this owner; nobody owns nothing."""
        return not self.who.anonymous and self.who.user == owner

    async def found(self, permission: Permission) -> Found:
        """The object named by the request, if the caller may do this to it.

        Refused: AccessDenied, also instead of NoSuchKey to whoever may not list the bucket.
        """
        return await self.found_in(await self.bucket(None), self.name, permission)

    async def found_in(self, bucket: Bucket, name: bytes, permission: Permission) -> Found:
        """An object of a bucket, likewise."""
        try:
            found = await self.store.objects.find(bucket, name)
        except NoSuchKey:
            current = await self.store.buckets.lookup(bucket.name)  # as `find` has just read it
            self.demand(acl.allows(current.acl, Permission.READ, self.who, owner=current.owner))
            raise
        self.demand_of(found, permission)
        return found

    def demand_of(self, found: Found, permission: Permission) -> None:
        """Refused(AccessDenied) unless the caller may do this to this version of an object."""
        record = found.record
        if self.owns(record.owner):
            return
        self.demand(
            acl.allows(
                record.acl,
                permission,
                self.who,
                owner=record.owner,
                bucket_owner=found.bucket.owner,
            )
        )

    def demand(self, allowed: bool) -> None:
        """Refused(AccessDenied) unless allowed."""
        if not allowed:
            raise Refused("AccessDenied")

    def demand_current_version(self) -> None:
        """Refuse any version but the one there is: without versioning it is called `null`."""
        version = self.request.query.get("versionId")
        if version is not None and version != "null":
            if not version:
                raise Refused("InvalidArgument", "Version id cannot be the empty string")
            raise Refused("NoSuchVersion")


Handler = Callable[[Call], Awaitable[Response]]
"""A verb: one request in, one response out. Errors are `PinfoldError`s."""

XML_TYPE: Final = ("Content-Type", "application/xml")


def xml_response(document: bytes, *headers: tuple[str, str]) -> Response:
    """200 with a document."""
    return Response(200, [XML_TYPE, *headers], document)
