"""The four roles of a process. Each module has one `start` function of type `StartRole`."""

from importlib import import_module

from pinfold.cluster.map import Role
from pinfold.node.context import StartRole


def starter_of(role: Role) -> StartRole:
    """The role's start function; only the role's own imports are paid for."""
    start: StartRole = import_module(f"pinfold.node.roles.{role}").start
    return start
