"""Placeholder until its layers are wired."""

from typing import Any

from pinfold.node.context import NodeContext, Role


async def start(context: NodeContext) -> Role:
    """Nothing yet."""
    return _Idle(context)


class _Idle:
    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def status(self) -> dict[str, Any]:
        return {}

    async def stop(self) -> None:
        return None
