"""S3 against the machine: small requests against a bare server and the flush rate, large ones
against MD5 and loopback.
"""

import hashlib
import os
from typing import Any

import uvloop

from bench import limits
from bench.cluster import cpu_seconds, running
from bench.load import Rate, Signer, closed_loop

CLIENTS = 16
OBJECT = 4096
BIG = 64 << 20


async def small(cluster: dict[str, Any], seconds: float = 6.0) -> dict[str, Rate]:
    """PUT, GET and LIST rates with `CLIENTS` closed-loop clients."""
    signer = Signer(cluster["s3"], cluster["access_key"], cluster["secret_key"])
    await closed_loop(signer.endpoint, [signer.request("PUT", "/bench")], 1, 30, once=True)
    body = os.urandom(OBJECT)
    names = [f"/bench/{hashlib.md5(str(i).encode()).hexdigest()}" for i in range(40_000)]
    puts = [signer.request("PUT", name, body=body) for name in names]
    rates = {"PUT 4 KiB": await closed_loop(signer.endpoint, puts, CLIENTS, seconds, once=True)}
    written = names[: rates["PUT 4 KiB"].requests]
    gets = [signer.request("GET", name) for name in written]
    rates["GET 4 KiB"] = await closed_loop(signer.endpoint, gets, CLIENTS, seconds, once=False)
    lists = [
        signer.request("GET", "/bench", f"list-type=2&max-keys=100&prefix={i:02x}")
        for i in range(256)
    ]
    rates["LIST 100"] = await closed_loop(signer.endpoint, lists, CLIENTS, seconds / 2, once=False)
    return rates


async def bare(endpoint: str, seconds: float = 3.0) -> dict[str, Rate]:
    """The same heads and bodies against a server that does nothing."""
    signer = Signer(endpoint, "key", "secret")
    put = [signer.request("PUT", "/bench/x", body=bytes(OBJECT))]
    get = [signer.request("GET", "/bench/x")]
    return {
        "PUT 4 KiB": await closed_loop(endpoint, put, CLIENTS, seconds, once=False),
        "GET 4 KiB": await closed_loop(endpoint, get, CLIENTS, seconds, once=False),
    }


async def big(cluster: dict[str, Any], count: int = 6) -> dict[str, float]:
    """MiB per second of 64 MiB objects, two at a time."""
    signer = Signer(cluster["s3"], cluster["access_key"], cluster["secret_key"])
    body = os.urandom(BIG)
    puts = [signer.request("PUT", f"/bench/big{i}", body=body) for i in range(count)]
    gets = [signer.request("GET", f"/bench/big{i}") for i in range(count)]
    put = await closed_loop(signer.endpoint, puts, 2, 120, once=True)
    get = await closed_loop(signer.endpoint, gets, 2, 120, once=True)
    mib = BIG / (1 << 20)
    return {"PUT": put.requests * mib / put.seconds, "GET": get.requests * mib / get.seconds}


def report() -> None:
    """Print the table."""
    with limits.bare_server() as endpoint:
        ceiling = uvloop.run(bare(endpoint))
    with running() as cluster:
        flushes = limits.flush_rate(cluster["data"])
        pids = {node["name"]: node["pid"] for node in cluster["nodes"] + cluster["frontends"]}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        rates = uvloop.run(small(cluster))
        used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        large = uvloop.run(big(cluster))
    bare_get = ceiling["GET 4 KiB"].per_second
    print(f"bare aiohttp: PUT {ceiling['PUT 4 KiB'].per_second:,.0f}/s GET {bare_get:,.0f}/s")
    print(f"flush rate of one appender: {flushes:,.0f}/s")
    for name, rate in rates.items():
        against = ceiling.get(name, ceiling["GET 4 KiB"]).per_second
        print(
            f"{name}: {rate.per_second:,.0f}/s = {rate.per_second / against:.2f} x bare aiohttp, "
            f"{rate.per_second / flushes:.2f} x flush rate, "
            f"p50 {rate.percentile(0.5):.2f} ms, p99 {rate.percentile(0.99):.2f} ms"
        )
    print("CPU seconds: " + ", ".join(f"{name} {spent:.1f}" for name, spent in used.items()))
    md5, loopback = limits.md5_rate(), limits.loopback_rate()
    print(f"MD5 {md5:,.0f} MiB/s, loopback {loopback:,.0f} MiB/s")
    for name, rate_mib in large.items():
        print(
            f"{name} 64 MiB: {rate_mib:,.0f} MiB/s = {rate_mib / md5:.2f} x MD5, "
            f"{rate_mib / loopback:.2f} x loopback"
        )


if __name__ == "__main__":
    report()
