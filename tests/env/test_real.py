import subprocess
import sys

FAULTS = """
import resource
from pinfold.env.real import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def burst():
    held = [bytearray(1 << 20) for _ in range(8)]

def count():
    burst()
    before = faults()
    for _ in range(10):
        burst()
    return faults() - before

mapped = count()
assert keep_freed_memory()
print(mapped, count())
"""


def test_large_buffers_are_reused_once_told() -> None:
    # A buffer of 1 MiB mapped afresh is 256 page faults.
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    mapped, kept = map(int, done.stdout.split())
    assert mapped > 10 * 256
    assert kept < 256
