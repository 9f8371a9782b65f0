"""The table of peers: who is reachable where, one session to each, kept up for ever.

Each node dials every address it is given and asks over the connection it dialled (`session` says
why there are two connections per pair). Everything about time (beats, silence, handshakes) hangs
on one timer for all sessions.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog

from pinfold.env.api import Buffer, Env, Listener
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import PinfoldError, Unavailable
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.api import Answer, Body, OutStream
from pinfold.rpc.caller import Caller
from pinfold.rpc.calls import fail_quietly
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import NONCE_BYTES, Handshake, Identity, Keyring, PeerIdentity
from pinfold.rpc.limits import (
    BEAT_S,
    HANDSHAKE_S,
    HANDSHAKES,
    RETRY_MAX_S,
    RETRY_MIN_S,
    RpcLimits,
)
from pinfold.rpc.local import LocalCaller
from pinfold.rpc.serving import Serving, UnderWay
from pinfold.rpc.session import Session

_log: Final = structlog.get_logger("pinfold.rpc")

_TICK_S: Final = BEAT_S / 2
"""Seconds between looks at every session."""

_GOODBYE_S: Final = 0.5
"""Seconds that a closing node gives its peers to take its last answers."""

PeerWatch = Callable[[NodeName, bool, Boot], None]
EpochWatch = Callable[[NodeName, int], None]


class PeerTable:
    """The real `Peers`, and the listener for other nodes' requests.

    Made inside the running loop; `close` it before the loop ends.
    """

    def __init__(
        self,
        env: Env,
        identity: Identity,
        operations: Operations,
        *,
        limits: RpcLimits | None = None,
    ) -> None:
        self._env = env
        self._identity = identity
        self._operations = operations
        self._limits = RpcLimits() if limits is None else limits
        self._loop = asyncio.get_running_loop()
        self._scope = TaskScope(self._task_failed)
        self._under_way = UnderWay()
        self._local = LocalCaller(
            env.clock, identity, operations, self._scope, self._under_way, self._limits
        )
        self._addresses: dict[NodeName, str] = {}
        self._keepers: dict[NodeName, asyncio.Task[None]] = {}
        self._callers: dict[NodeName, Caller] = {}
        self._sessions: dict[Session, Handshake] = {}
        """Every connection, dialled or accepted, from its making to its loss."""
        self._strangers: dict[Session, None] = {}
        """Accepted connections that have proved nothing yet, oldest first."""
        self._listeners: list[Listener] = []
        self._watchers: list[PeerWatch] = []
        self._epoch_watchers: list[EpochWatch] = []
        self._tick_due = env.clock.monotonic() + _TICK_S
        self._ticker: asyncio.TimerHandle | None = self._loop.call_later(_TICK_S, self._tick)
        self._last_lost: asyncio.Future[None] | None = None
        self._closed = False

    # asking

    def call(
        self,
        node: NodeName,
        operation: str,
        body: Body = None,
        payload: Sequence[Buffer] = (),
        *,
        deadline: float,
    ) -> asyncio.Future[Answer]:
        """See `Peers.call`."""
        caller = self._callers.get(node)
        if caller is not None:
            return caller.call(operation, body, payload, deadline)
        if node == self._identity.node and not self._closed:
            return self._local.call(operation, body, payload, deadline)
        future: asyncio.Future[Answer] = self._loop.create_future()
        fail_quietly(future, Unavailable(f"no session with {node}"))
        return future

    def tell(self, node: NodeName, operation: str, body: Body = None) -> None:
        """See `Peers.tell`."""
        caller = self._callers.get(node)
        if caller is not None:
            caller.tell(operation, body)
        elif node == self._identity.node and not self._closed:
            self._local.tell(operation, body)

    def open(
        self, node: NodeName, operation: str, body: Body = None, *, deadline: float
    ) -> OutStream:
        """See `Peers.open`."""
        caller = self._callers.get(node)
        if caller is not None:
            return caller.open(operation, body, deadline)
        if node == self._identity.node and not self._closed:
            return self._local.open(operation, body, deadline)
        raise Unavailable(f"no session with {node}")

    def connected(self, node: NodeName) -> bool:
        """See `Peers.connected`."""
        caller = self._callers.get(node)
        if caller is not None:
            return caller.connected
        return node == self._identity.node and not self._closed

    def watch(self, callback: PeerWatch) -> None:
        """See `Peers.watch`."""
        self._watchers.append(callback)

    # the map's epoch

    def set_epoch(self, epoch: int) -> None:
        """The map epoch that frames carry from now on."""
        self._local.epoch = epoch

    def watch_epochs(self, callback: EpochWatch) -> None:
        """Hear of a peer's map epoch when a session starts and whenever the peer's changes."""
        self._epoch_watchers.append(callback)

    def _epoch(self) -> int:
        return self._local.epoch

    def _epoch_seen(self, peer: PeerIdentity, epoch: int) -> None:
        for callback in self._epoch_watchers:
            callback(peer.node, epoch)

    # secrets

    def set_keyring(self, keyring: Keyring) -> None:
        """Prove and accept these secrets from now on; who proved another one has to come again.

        So has who is proving one: a handshake goes by the secrets that there were at its start.
        """
        self._identity = replace(self._identity, keyring=keyring)
        for session, handshake in list(self._sessions.items()):
            if handshake.peer is None or handshake.key_id not in keyring.secrets:
                session.fail(Unavailable("the cluster's secret has been replaced"))

    # peers

    def set_addresses(self, addresses: Mapping[NodeName, str]) -> None:
        """Keep a session with exactly these nodes; this node itself may be among them."""
        assert not self._closed
        wanted = {name: addresses[name] for name in addresses if name != self._identity.node}
        for name, address in list(self._addresses.items()):
            if wanted.get(name) != address:
                del self._addresses[name]
                self._keepers.pop(name).cancel()
        for name, address in wanted.items():
            if name not in self._addresses:
                self._addresses[name] = address
                keeper = self._keep(name, address)
                self._keepers[name] = self._scope.start(keeper, name=f"peer {name}")

    async def _keep(self, node: NodeName, address: str) -> None:
        """Dial, stay until the session is lost, and again, for ever."""
        retry_s = RETRY_MIN_S
        told = ""
        while True:
            try:
                error = await self._stay_connected(node, address)
                retry_s, told = RETRY_MIN_S, ""
                _log.warning("peer lost", peer=node, reason=error.message)
            except (OSError, PinfoldError) as failure:
                if str(failure) != told:  # once, not at every attempt
                    told = str(failure)
                    _log.warning("peer not reached", peer=node, address=address, reason=told)
            await asyncio.sleep(retry_s * (0.5 + self._env.rng.random() / 2))
            retry_s = min(2 * retry_s, RETRY_MAX_S)

    async def _stay_connected(self, node: NodeName, address: str) -> PinfoldError:
        """One session from its dialling to its loss; raises when it is not established."""
        caller = Caller(self._env.clock, self._limits, epoch_seen=self._epoch_seen)
        handshake = self._handshake(node)
        session = Session(self._env.clock, caller, handshake, self._epoch)
        peer: PeerIdentity | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._env.net.connect(address, lambda: session)
                self._sessions[session] = handshake
                peer = await caller.up
        except TimeoutError:
            session.fail(Unavailable("not connected in time"))
            raise Unavailable(f"{node} did not answer within {HANDSHAKE_S} s") from None
        except BaseException:
            session.fail(Unavailable("not wanted any more"))
            raise
        finally:
            if peer is None:
                self._forget(session)
        return await self._serve_callers(node, caller, session, peer)

    async def _serve_callers(
        self, node: NodeName, caller: Caller, session: Session, peer: PeerIdentity
    ) -> PinfoldError:
        self._callers[node] = caller
        self._tell_watchers(node, True, peer.boot)
        try:
            return await asyncio.shield(caller.down)
        finally:
            session.fail(Unavailable("not wanted any more"))
            caller.drop(Unavailable(f"{node} is not a peer any more"))
            self._forget(session)
            if self._callers.get(node) is caller:
                del self._callers[node]
                self._tell_watchers(node, False, peer.boot)

    def _tell_watchers(self, node: NodeName, up: bool, boot: Boot) -> None:
        _log.info("peer session", peer=node, up=up, boot=boot)
        for callback in self._watchers:
            callback(node, up, boot)

    def _handshake(self, expected: NodeName | None) -> Handshake:
        nonce = self._env.rng.randbytes(NONCE_BYTES)
        return Handshake(self._identity, nonce, expected=expected)

    # answering

    async def listen(self, address: str) -> str:
        """Answer requests of other nodes there; the address with its real port."""
        listener = await self._env.net.listen(address, self._accept)
        self._listeners.append(listener)
        return listener.address

    def _accept(self) -> Session:
        if len(self._strangers) >= HANDSHAKES:
            oldest = next(iter(self._strangers))
            self._forget(oldest)
            oldest.fail(Unavailable("too many connections in their handshake"))
        serving = Serving(
            self._env.clock,
            self._operations,
            self._scope,
            self._under_way,
            self._limits,
            established=lambda _: self._strangers.pop(session, None),
            lost=lambda serving, error: self._unserved(session, serving, error),
            epoch_seen=self._epoch_seen,
        )
        handshake = self._handshake(None)
        session = Session(self._env.clock, serving, handshake, self._epoch)
        self._sessions[session] = handshake
        self._strangers[session] = None
        return session

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session, None)
        if not self._sessions and self._last_lost is not None and not self._last_lost.done():
            self._last_lost.set_result(None)
        self._strangers.pop(session, None)

    def _unserved(self, session: Session, serving: Serving, error: PinfoldError) -> None:
        self._forget(session)
        if serving.peer is None:
            _log.warning("connection refused", reason=error.message)

    # time and end

    def _tick(self) -> None:
        now = self._env.clock.monotonic()
        stalled_s = now - self._tick_due
        self._tick_due = now + _TICK_S
        self._ticker = self._loop.call_later(_TICK_S, self._tick)
        # A process that slept has bytes waiting unread: peers were not silent for that time.
        stalled_s = stalled_s if stalled_s > _TICK_S else 0.0
        for session in list(self._sessions):
            session.tick(now, stalled_s)

    def _task_failed(self, error: BaseException) -> None:
        _log.error("rpc task failed", exc_info=error)

    async def close(self) -> None:
        """Stop listening, answer what is under way (for a while), then drop every session.

        Calls still in flight fail with Unavailable. Idempotent.
        """
        if self._closed:
            return
        for listener in self._listeners:
            listener.close()
        await self._under_way.drained(self._limits.drain_s)
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        await self._scope.close()  # dialled sessions end with their keepers
        await self._close_sessions()
        self._local.fail_all(Unavailable("this node has closed"))

    async def _close_sessions(self) -> None:
        """Let every session send what it has; whose peer does not take it is dropped."""
        for session in list(self._sessions):
            session.close()
        if self._sessions:
            self._last_lost = self._loop.create_future()
            try:
                async with asyncio.timeout(_GOODBYE_S):
                    await self._last_lost
            except TimeoutError:
                for session in list(self._sessions):
                    session.fail(Unavailable("this node has closed"))
