"""A request's way: authenticate, route, refuse what is not understood, call the verb, answer.

Every outcome is a `Response`; errors become S3's error documents here and nowhere else.
"""

from collections.abc import AsyncIterator, Callable
from typing import Final

from pinfold.accounts.credentials import Credential
from pinfold.env.api import Buffer
from pinfold.model.errors import PinfoldError
from pinfold.s3 import signature, signature_v2, xml
from pinfold.s3.acl import ANONYMOUS, Identity
from pinfold.s3.call import XML_TYPE, Call, Store
from pinfold.s3.errors import Refused, refusal_of
from pinfold.s3.request import Chunks, Request, Response
from pinfold.s3.router import demand_understood, operation_of
from pinfold.s3.signature import ChunkSigner, SigningKeys
from pinfold.s3.signature_v2 import ClaimV2
from pinfold.s3.verbs import HANDLERS, TAKE_A_BODY

HOST_ID: Final = "pinfold"
"""HostId of error documents; clients only quote it."""

UNROUTED: Final = "Unrouted"
"""The operation's name in metrics when there is none."""


class Gateway:
    """Answers requests. `on_error` hears of errors that are our fault."""

    def __init__(self, store: Store, on_error: Callable[[Request, PinfoldError], None]) -> None:
        self._store = store
        self._on_error = on_error
        self._signing_keys = SigningKeys()

    async def answer(self, request: Request) -> tuple[str, Response]:
        """(operation, response). Raises only what is no `PinfoldError`."""
        operation = UNROUTED
        try:
            operation = operation_of(request)
            call = await self._authenticated(request)
            handler = HANDLERS.get(operation)
            if handler is None:
                raise Refused("NotImplemented", f"{operation} is not implemented")
            demand_understood(operation, request)
            if operation not in TAKE_A_BODY:
                await call.unasked_body()
            response = await handler(call)
            if response.chunks is not None and request.method != "HEAD":
                response.chunks = await Primed.of(response.chunks)
            return operation, response
        except PinfoldError as error:
            refused = refusal_of(error)
            if refused.status == 500:
                self._on_error(request, error)
            return operation, error_response(request, refused)

    async def _authenticated(self, request: Request) -> Call:
        headers = request.headers
        if request.method == "OPTIONS":  # browsers sign no preflight, even of signed URLs
            return Call(self._store, request, ANONYMOUS, signature.UNSIGNED, None)
        authorization = headers.get("authorization", "")
        older = signature_v2.claim_of(authorization, request.query, headers)
        if older is not None:
            return await self._authenticated_v2(request, older)
        claim = signature.claim_of(authorization, request.query, headers)
        if claim is None:
            return Call(self._store, request, ANONYMOUS, _unsigned_payload(headers), None)
        signature.demand_region(claim, self._store.settings.region)
        credential = await self._credential(claim.access_key, headers)
        self._signing_keys.demand_in_time(claim, self._store.clock.wall())
        signature.demand_headers_signed(claim, headers)
        key = self._signing_keys.key(credential.secret, claim.date, claim.region)
        signature.demand_signature(
            claim,
            key,
            method=request.method,
            path=request.path,
            raw_query=request.raw_query,
            headers=headers,
        )
        request.user = credential.user
        signer = None
        if claim.payload_hash in (signature.STREAMING, signature.STREAMING_TRAILER):
            signer = ChunkSigner(claim, key)
        who = Identity(credential.user, credential.display_name)
        return Call(self._store, request, who, claim.payload_hash, signer)

    async def _authenticated_v2(self, request: Request, claim: ClaimV2) -> Call:
        headers = request.headers
        credential = await self._credential(claim.access_key, headers)
        signature_v2.demand_in_time(claim, headers, self._store.clock.wall())
        signature_v2.demand_signature(
            claim,
            credential.secret,
            method=request.method,
            path=request.resource,
            query=request.query,
            headers=headers,
        )
        request.user = credential.user
        who = Identity(credential.user, credential.display_name)
        return Call(self._store, request, who, _unsigned_payload(headers), None)

    async def _credential(self, access_key: str, headers: dict[str, str]) -> Credential:
        if "x-amz-security-token" in headers:
            raise Refused("InvalidToken", "there are no temporary credentials here")
        credential = await self._store.accounts.lookup(access_key)
        if credential is None:
            raise Refused("InvalidAccessKeyId", extra=(("AWSAccessKeyId", access_key),))
        return credential


class Primed:
    """Chunks of which the first is there: what makes it fail can still be told as a status."""

    def __init__(self, first: list[Buffer] | None, rest: Chunks) -> None:
        self._first = first
        self._rest = rest

    @classmethod
    async def of(cls, chunks: Chunks) -> "Primed":
        """Read the first chunk; what that raises, when the chunks have been closed."""
        try:
            return cls(await anext(chunks), chunks)
        except StopAsyncIteration:
            return cls(None, chunks)
        except BaseException:
            await chunks.aclose()
            raise

    def __aiter__(self) -> AsyncIterator[list[Buffer]]:
        return self

    async def __anext__(self) -> list[Buffer]:
        first, self._first = self._first, None
        return await anext(self._rest) if first is None else first

    async def aclose(self) -> None:
        """See `Chunks`."""
        self._first = None
        await self._rest.aclose()


def _unsigned_payload(headers: dict[str, str]) -> str:
    """How a body no signature covers is framed: it can only be plain or unsigned chunks."""
    if headers.get("x-amz-content-sha256") == signature.STREAMING_UNSIGNED_TRAILER:
        return signature.STREAMING_UNSIGNED_TRAILER
    if headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        raise Refused("AccessDenied", "signed chunks of an unsigned request")
    return signature.UNSIGNED


def error_response(request: Request, refused: Refused) -> Response:
    """The error document; HEAD gets the status alone, and so does 304."""
    if refused.status == 304:
        return Response(304, list(refused.headers), error=refused.s3_code)
    writer = xml.Writer("Error", namespace="")
    writer.leaf("Code", refused.s3_code)
    writer.leaf("Message", refused.message)
    if request.bucket:
        writer.leaf("BucketName", request.bucket)
    if request.key:
        writer.leaf("Key", request.key)
    writer.leaf("Resource", request.path)
    for name, value in refused.extra:
        writer.leaf(name, value)
    writer.leaf("RequestId", request.id)
    writer.leaf("HostId", HOST_ID)
    body = writer.document()
    return Response(refused.status, [XML_TYPE, *refused.headers], body, error=refused.s3_code)
