"""Where the log lines of simulated nodes go: into the account, and errors are looked at.

A node that logs an exception that is none of `model.errors` and no `OSError` has a bug: an
assertion of its own did not hold, or nobody expected what happened.
"""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from pinfold.model.errors import PinfoldError
from pinfold.sim.account import Account
from pinfold.sim.loop import current_process


@contextmanager
def told_to(account: Account) -> Iterator[None]:
    """Send what all nodes log to an account; undone at the end."""
    before = structlog.get_config()

    def tell(_logger: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        error = event.pop("exc_info", None)
        process = current_process()
        who = process.name if process is not None else "world"
        facts = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        account.tell(who, f"{level}: {event['event']} {facts}")
        if isinstance(error, BaseException) and not isinstance(error, PinfoldError | OSError):
            account.violated("unexpected exception", f"{who}: {event['event']}: {traced(error)}")
        raise structlog.DropEvent

    structlog.configure(
        processors=[tell],
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def traced(error: BaseException) -> str:
    """An exception and the innermost places it came through."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        name = code.co_filename.rsplit("pinfold/", 1)[-1]
        places.append(f"{name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"{error!r} ({' > '.join(places[-6:])})"
