"""Run every measurement that has a limit or a peer beside it."""

import importlib
import sys

PARTS = ("ring", "device", "rpc", "rows", "copies", "s3", "nbd")


def main() -> None:
    """Run the parts named as arguments, or all."""
    for part in sys.argv[1:] or PARTS:
        print(f"== {part}", flush=True)
        importlib.import_module(f"bench.{part}").report()


if __name__ == "__main__":
    main()
