"""What a process is doing right now, for when it hangs: `kill -USR1 PID` writes it to NAME.out."""

import asyncio
import faulthandler
import io
import sys


def print_stacks() -> None:
    """Print the stack of every task of the running loop, then of every thread, to stderr."""
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        stack = io.StringIO()
        task.print_stack(file=stack)
        print(stack.getvalue(), end="", file=sys.stderr)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
