"""One device's files: journal, index, packs, arena. May import codec, env and model.

Knows no sockets and no cluster: bytes in, bytes out, durable when the future says so.
"""
