"""Tasks that belong to somebody: a scope that is closed cancels and awaits all it started.

asyncio.TaskGroup cancels its siblings when one task fails, which is right for one job and wrong
for a server; here a failure goes to the scope's `on_error` and the others live on.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class TaskScope:
    """Owns tasks; `close` cancels them in the order they were started and waits for them."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a dict: cancelled in start order
        self._closed = False

    def start(
        self, work: Coroutine[Any, Any, Any], *, name: str | None = None
    ) -> asyncio.Task[Any]:
        """Run a coroutine as a task of this scope."""
        assert not self._closed, "a closed scope starts nothing"
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)

    async def close(self) -> None:
        """Cancel everything and wait until it has ended. Idempotent."""
        self._closed = True
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            for task in tasks:
                try:
                    await task
                except asyncio.CancelledError:
                    if (current := asyncio.current_task()) is not None and current.cancelling():
                        raise
                except Exception:  # noqa: BLE001 - reported by _done already
                    pass
            await asyncio.sleep(0)  # a task that was done already: let the loop call its _done
