"""Users and access keys: made, disabled, allowed again, deleted, and used all the while.

One client decides, so that it knows what every key is; whoever signs with a key right before or
after may be told either. A change that fails is repeated until it has worked.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from pinfold.accounts.records import State
from pinfold.model.errors import Conflict, Invalid, NotFound, PinfoldError
from pinfold.s3.call import Store
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads import s3
from pinfold.sim.workloads.bench import Bench
from pinfold.sim.workloads.s3 import User

_PAUSE_S: Final = 0.12
"""Mean pause between two calls."""

_MOMENT_S: Final = 0.015
"""About as long as a change takes."""

_PATIENCE_S: Final = 8.0

_SECRET: Final = "secret of an access key"

Change = Callable[[Store], Coroutine[Any, Any, object]]


async def keeper(bench: Bench, client: str) -> None:
    """One user after the other, until the run stops."""
    life = 0
    while not bench.stopping:
        life += 1
        await _Life(bench, client, f"{client}{life}").run()


@dataclass(slots=True)
class _Life:
    """One user and the keys that it ever had."""

    bench: Bench
    client: str
    user: str
    state: State = "active"
    keys: dict[str, State] = field(default_factory=dict)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = self.bench.rng(self.user)

    async def run(self) -> None:
        """From the user's creation to its deletion."""
        if not await self._make_user() or not await self._make_key():
            return
        acts = {
            self._use: 8,
            self._set_key: 2,
            self._set_user: 1,
            self._make_key: 0.7,
            self._end_key: 0.3,
            self._contend: 0.6,
            self._again: 0.5,
        }
        for _ in range(self.rng.randrange(4, 40)):
            await asyncio.sleep(self.rng.expovariate(1 / _PAUSE_S))
            if self.bench.stopping:
                return
            (act,) = self.rng.choices(list(acts), list(acts.values()))
            if not await act():
                return
        if await self._end_user():
            for _ in range(4):
                await self._use()
            await self._make_user(anew=True)

    # What is done

    async def _make_user(self, *, anew: bool = False) -> bool:
        """Make the user, which must be refused `anew`, when it has been deleted."""
        return await self._change(
            {self._subject: "active"},
            lambda store: store.accounts.create_user(self.user),
            None if anew else Conflict,
        )

    async def _make_key(self) -> bool:
        key = f"{self.user}.{len(self.keys)}"
        self.keys[key] = "active"
        return await self._change({key: "active"}, self._creation(key), Conflict)

    async def _again(self) -> bool:
        """Give a key that was deleted again, which must be refused."""
        ended = [key for key, state in self.keys.items() if state == "deleted"]
        if ended:
            await self._change({ended[0]: "active"}, self._creation(ended[0]))
        return True

    async def _set_key(self) -> bool:
        key = self._living()
        if key is None:
            return True
        state: State = "active" if self.keys[key] == "disabled" else "disabled"
        self.keys[key] = state
        return await self._change(
            {key: state}, lambda store: store.accounts.set_key_state(key, state)
        )

    async def _set_user(self) -> bool:
        state: State = "active" if self.state == "disabled" else "disabled"
        self.state = state
        return await self._change(
            {self._subject: state},
            lambda store: store.accounts.set_user_state(self.user, state),
        )

    async def _end_key(self) -> bool:
        key = self._living()
        if key is None:
            return True
        self.keys[key] = "deleted"
        return await self._change(
            {key: "deleted"}, lambda store: store.accounts.delete_key(key), NotFound
        )

    async def _contend(self) -> bool:
        """Delete a key and set its state in the same moment: it is deleted, whoever was first."""
        key = self._living()
        if key is None:
            return True

        async def rival() -> None:
            await asyncio.sleep(self.rng.uniform(0.0, _MOMENT_S))
            await self._change(
                {key: "active"}, lambda store: store.accounts.set_key_state(key, "active")
            )

        async with asyncio.TaskGroup() as both:
            both.create_task(rival())
            await asyncio.sleep(self.rng.uniform(0.0, _MOMENT_S))
            self.keys[key] = "deleted"
            ending = self._change(
                {key: "deleted"}, lambda store: store.accounts.delete_key(key), NotFound
            )
            return await ending

    async def _end_user(self) -> bool:
        self.state = "deleted"
        ended: dict[str, State] = dict.fromkeys((*self.keys, self._subject), "deleted")
        return await self._change(
            ended, lambda store: store.accounts.delete_user(self.user), NotFound
        )

    async def _use(self) -> bool:
        """Sign a request with any of the keys, through any gateway."""
        key = self.rng.choice(list(self.keys))
        began = self.bench.recorder.instant()

        async def request(process: GatewayProcess) -> bool:
            try:
                await s3.call(process, User(self.user, _SECRET, key), "GET", "/")
            except Invalid:
                return False
            return True

        gateway = self.rng.choice(self.bench.plan.front)
        try:
            worked = await self.bench.ask(self.client, gateway, f"use {key}", request, _PATIENCE_S)
        except (PinfoldError, Down, ProcessDied, TimeoutError):
            self.bench.account.count("key use failed")
            return True
        self.bench.recorder.key_used(key, user=self._subject, worked=worked, began=began)
        self.bench.account.count("key accepted" if worked else "key refused")
        return True

    # How

    def _living(self) -> str | None:
        living = [key for key, state in self.keys.items() if state != "deleted"]
        return self.rng.choice(living) if living else None

    @property
    def _subject(self) -> str:
        """The user as told to the recorder."""
        return f"user {self.user}"

    def _creation(self, key: str) -> Change:
        return lambda store: store.accounts.create_key(self.user, access_key=key, secret=_SECRET)

    async def _change(
        self,
        states: dict[str, State],
        change: Change,
        done_before: type[PinfoldError] | None = None,
    ) -> bool:
        """Change what these keys or users are, until it has worked; whether it has.

        `done_before`: what is said when an attempt whose answer was lost had worked.
        """
        lost = False
        while True:
            began = self.bench.recorder.instant()
            error = await self._attempt(change)
            known = error is None or (lost and done_before and isinstance(error, done_before))
            refused = isinstance(error, (Conflict, NotFound, Down)) and not known
            if not refused:
                for key, state in states.items():
                    self.bench.recorder.key_changed(key, state, began=began, known=bool(known))
            if known:
                return True
            lost = lost or not refused
            if self.bench.stopping or (refused and not isinstance(error, Down)):
                return False
            await asyncio.sleep(self.rng.expovariate(1 / _PAUSE_S))

    async def _attempt(self, change: Change) -> Exception | None:
        async def request(process: GatewayProcess) -> None:
            await change(process.store)

        gateway = self.rng.choice(self.bench.plan.front)
        try:
            await self.bench.ask(self.client, gateway, "change of keys", request, _PATIENCE_S)
        except (PinfoldError, Down, ProcessDied, TimeoutError) as error:
            return error
        return None
