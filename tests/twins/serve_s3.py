"""`python -m tests.twins.serve_s3 --port P`: the S3 service on rows and blobs in memory.

For client test suites and profiles. Users are those that ceph/s3-tests uses by default.
"""

import argparse
import asyncio
import signal

import uvloop

from pinfold.env.real import real_env
from pinfold.s3.service import S3Service
from tests.twins.cluster import MemoryBlobs, MemoryRows
from tests.twins.sealing import SEALER

USERS = (
    (
        "testid",
        "M. Tester",
        "0555b35654ad1656d804",
        "h7GhxuBLTrlhVUyxSPUKUV8r/2EI4ngqJxD7iBdBYLhwluN30JaT3Q==",
    ),
    (
        "56789abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234",
        "john.doe",
        "NOPQRSTUVWXYZABCDEFG",
        "nopqrstuvwxyzabcdefghijklmnabcdefghijklm",
    ),
    (
        "testx$9876543210abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "testx$tenanteduser",
        "HIJKLMNOPQRSTUVWXYZA",
        "opqrstuvwxyzabcdefghijklmnopqrstuvwxyzab",
    ),
)


async def serve(port: int) -> None:
    env = real_env()
    blobs = MemoryBlobs(env.clock, env.rng.randbytes)
    service = S3Service(env, MemoryRows(env.clock, blobs.freed), blobs, SEALER)
    for user, name, access_key, secret in USERS:
        await service.store.accounts.create_user(user, display_name=name)
        await service.store.accounts.create_key(user, access_key=access_key, secret=secret)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    bound = await service.start("127.0.0.1", port)
    print(f"S3 on http://127.0.0.1:{bound}", flush=True)
    await stopped.wait()
    await service.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
