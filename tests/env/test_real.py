import subprocess
import sys


def test_large_buffers_are_reused_once_told() -> None:
    # Minor faults of 200 buffers of 1 MiB: 256 pages each when every one is mapped afresh.
    code = (
        "import resource; from pinfold.env.real import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "bytearray(1 << 20); before = faults()\n"
        "for _ in range(200): bytearray(1 << 20)\n"
        "print(faults() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert int(done.stdout) < 200 * 256 // 10, done.stderr
