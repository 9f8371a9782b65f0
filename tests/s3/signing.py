"""A client's side of Signature Version 4, written apart from the server's."""

import hashlib
import hmac
from urllib.parse import quote

EMPTY = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"


def mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Signer:
    """Signs requests of one key in one region."""

    def __init__(self, access_key: str, secret: str, stamp: str, region: str = "us-east-1") -> None:
        self.access_key = access_key
        self.stamp = stamp
        self.scope = f"{stamp[:8]}/{region}/s3/aws4_request"
        key = ("AWS4" + secret).encode()
        for word in self.scope.split("/"):
            key = mac(key, word)
        self.key = key

    def signature(
        self, method: str, path: str, query: str, headers: dict[str, str], payload_hash: str
    ) -> str:
        """The signature of a request; path and query are in canonical form already."""
        names = sorted(headers)
        canonical = "\n".join(
            [
                method,
                path,
                query,
                *(f"{name}:{headers[name].strip()}" for name in names),
                "",
                ";".join(names),
                payload_hash,
            ]
        )
        digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.stamp}\n{self.scope}\n{digest}"
        return mac(self.key, text).hex()

    def signed(
        self, method: str, path: str, query: str, headers: dict[str, str], payload_hash: str
    ) -> dict[str, str]:
        """Headers with the signature among them."""
        headers = {**headers, "x-amz-date": self.stamp, "x-amz-content-sha256": payload_hash}
        signature = self.signature(method, path, query, headers, payload_hash)
        names = ";".join(sorted(headers))
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{self.scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers

    def presigned(self, method: str, path: str, host: str, expires_s: int, query: str = "") -> str:
        """A query string that signs the request."""
        parameters = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.access_key}/{self.scope}",
            "X-Amz-Date": self.stamp,
            "X-Amz-Expires": str(expires_s),
            "X-Amz-SignedHeaders": "host",
        }
        pairs = [pair for pair in query.split("&") if pair]
        pairs += [f"{name}={quote(value, safe='')}" for name, value in parameters.items()]
        joined = "&".join(sorted(pairs))
        signature = self.signature(method, path, joined, {"host": host}, UNSIGNED)
        return f"{joined}&X-Amz-Signature={signature}"

    def chunked(
        self, seed: str, chunks: list[bytes], trailers: dict[str, str] | None = None
    ) -> bytes:
        """A body in signed chunks, with signed trailers if there are any."""
        previous, body = seed, b""
        for chunk in [*chunks, b""]:
            text = (
                f"AWS4-HMAC-SHA256-PAYLOAD\n{self.stamp}\n{self.scope}\n{previous}\n{EMPTY}\n"
                f"{hashlib.sha256(chunk).hexdigest()}"
            )
            previous = mac(self.key, text).hex()
            body += f"{len(chunk):x};chunk-signature={previous}\r\n".encode()
            if chunk:
                body += chunk + b"\r\n"
        if trailers is not None:
            lines = "".join(f"{name}:{value}\n" for name, value in trailers.items())
            text = (
                f"AWS4-HMAC-SHA256-TRAILER\n{self.stamp}\n{self.scope}\n{previous}\n"
                f"{hashlib.sha256(lines.encode()).hexdigest()}"
            )
            body += "".join(f"{name}:{value}\r\n" for name, value in trailers.items()).encode()
            body += f"x-amz-trailer-signature:{mac(self.key, text).hex()}\r\n".encode()
        return body + b"\r\n"


def unsigned_chunks(chunks: list[bytes], trailers: dict[str, str]) -> bytes:
    """A body in unsigned chunks with trailers."""
    body = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
    lines = "".join(f"{name}:{value}\r\n" for name, value in trailers.items())
    return body + b"0\r\n" + lines.encode() + b"\r\n"
