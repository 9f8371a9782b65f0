"""The S3 front end: HTTP requests in, use cases of `objects` and `accounts` called, XML out.

Only `http` knows the HTTP library. Signatures, chunk framing, routing, XML and ranges are pure.
"""
