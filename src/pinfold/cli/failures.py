"""From an error to what the operator reads and the status the shell gets."""

import json
import sys
from collections.abc import Callable
from typing import Any, Final

from pinfold.model.errors import PinfoldError

EXIT_FAILED: Final = 1
EXIT_UNREACHABLE: Final = 3
"""Usage errors (2) are click's own."""

NEXT_STEP: Final = {
    "not-found": "check the name; the `list` command of the same group shows what there is",
    "conflict": "nothing was changed",
    "busy": "try again in a moment",
    "unavailable": "`pinfold status` shows what is down, DATA/logs say why",
    "deadline": "`pinfold status` shows what is down; whether it happened, `list` tells",
    "full": "free space or add devices; `pinfold status` shows which device is full",
    "unreachable": "start the cluster with `pinfold up`, or name it with --data or --admin",
    "unauthorized": "set PINFOLD_TOKEN to the token in the cluster's cluster.json",
    "corrupt": 'see docs/operating.md, "A file or checksum is damaged" and the section behind it',
    "system": "look at the path, its owner and mode, and the room on its disk",
}
"""What to try, by error code, when the message alone does not say it."""


def run_reporting(command: Callable[[], Any]) -> Any:
    """Run a command; an error ends the process with its message and status, never with a stack.

    An OSError is the machine's: a directory that cannot be read or made, a disk that is full.
    """
    try:
        return command()
    except PinfoldError as error:
        _print(error.code, error.message)
        sys.exit(EXIT_UNREACHABLE if error.code == "unreachable" else EXIT_FAILED)
    except OSError as error:
        _print("system", f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(EXIT_FAILED)


def _print(code: str, message: str) -> None:
    step = NEXT_STEP.get(code)
    if "--json" in sys.argv:
        document = {"code": code, "message": message, "do": step}
        print(json.dumps({"error": document}), file=sys.stderr)
        return
    print(f"pinfold: {message}", file=sys.stderr)
    if step:
        print(f"  next: {step}", file=sys.stderr)
