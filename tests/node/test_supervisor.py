"""The supervisor with real, tiny processes: each behaviour is one line of Python."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pinfold.env.real import OsClock
from pinfold.model.errors import Conflict, NotFound, Unavailable
from pinfold.model.ids import NodeName
from pinfold.node.supervisor import ChildSpec, Supervisor

READY = 'line.send(b\'{"state":"ready"}\\n\')\n'
UNTIL_TOLD = "signal.sigwait([signal.SIGTERM])\n"
ABANDONED = f"""
import os
print(os.getpid(), flush=True)
{READY}
line.recv(1)
print("alone", flush=True)
"""
PRELUDE = """
import signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
line = socket.socket(fileno=int(sys.argv[-1]))
"""


class World:
    """A supervisor over scripts, and everything it told."""

    def __init__(self, tmp_path: Path, *, restart: bool = True, kill_after_s: float = 30) -> None:
        self._path = tmp_path
        self._restart = restart
        self._kill_after_s = kill_after_s
        self._news = asyncio.Event()
        self.events: list[tuple[str, ...]] = []
        self.specs: list[ChildSpec] = []

    def child(self, name: str, script: str, *, rank: int = 0) -> None:
        self.specs.append(
            ChildSpec(
                name=NodeName(name),
                command=[sys.executable, "-S", "-E", "-c", PRELUDE + script],
                output=str(self._path / f"{name}.out"),
                stop_rank=rank,
            )
        )

    async def until(self, kind: str, count: int = 1) -> None:
        """Wait for the count-th event of a kind."""
        async with asyncio.timeout(30):
            while len(self.of(kind)) < count:
                self._news.clear()
                await self._news.wait()

    def _on_event(self, *event: str) -> None:
        self.events.append(event)
        self._news.set()

    def run(self, use: Callable[[Supervisor], Awaitable[None]]) -> None:
        async def main() -> None:
            supervisor = Supervisor(
                OsClock(),
                self.specs,
                self._on_event,
                restart=self._restart,
                kill_after_s=self._kill_after_s,
            )
            supervisor.start()
            try:
                await use(supervisor)
            finally:
                await supervisor.stop()

        asyncio.run(main())

    def of(self, kind: str) -> list[str]:
        return [name for event, name, _ in self.events if event == kind]


async def ready(supervisor: Supervisor) -> None:
    await supervisor.ready(30)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_ready_when_all_have_reported_and_stopped_rank_by_rank(world: World) -> None:
    world.child("store", READY + UNTIL_TOLD, rank=2)
    world.child("front", READY + UNTIL_TOLD, rank=0)
    world.child("admin", READY + UNTIL_TOLD, rank=1)
    world.run(ready)
    assert sorted(world.of("ready")) == ["admin", "front", "store"]
    assert world.of("ended") == ["front", "admin", "store"]
    assert {detail for event, _, detail in world.events if event == "ended"} == {
        "exited with status 0"
    }


def test_a_process_that_says_why_it_cannot_start_fails_the_start(world: World) -> None:
    world.child("good", READY + UNTIL_TOLD)
    world.child("bad", 'line.send(b\'{"state":"failed","message":"port taken"}\\n\')\n')
    with pytest.raises(Unavailable, match="bad cannot start: port taken"):
        world.run(ready)
    assert "good" in world.of("ended")


def test_a_silent_process_is_named_after_the_timeout(world: World) -> None:
    world.child("slow", UNTIL_TOLD)
    with pytest.raises(Unavailable, match="slow"):
        world.run(lambda supervisor: supervisor.ready(0.2))


def test_a_killed_process_is_started_again(world: World) -> None:
    world.child("n1", READY + UNTIL_TOLD)

    async def use(supervisor: Supervisor) -> None:
        await supervisor.ready(30)
        child = supervisor.children[NodeName("n1")]
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await world.until("ready", 2)
        assert child.pid not in (first, None)

    world.run(use)
    assert any("killed by SIGKILL" in detail for _, _, detail in world.events)


def test_a_process_that_cannot_be_started_now_is_started_when_it_can(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    world = World(logs)
    world.child("one", READY + UNTIL_TOLD)

    async def use(supervisor: Supervisor) -> None:
        await ready(supervisor)
        logs.rename(tmp_path / "aside")  # what it prints has no place to go
        pid = supervisor.children[NodeName("one")].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await world.until("restarting", 2)
        assert "could not be started" in world.events[-1][2]
        await supervisor.stop_one(NodeName("one"))
        with pytest.raises(Unavailable, match=r"one cannot start: .*No such file"):
            await supervisor.start_one(NodeName("one"), 30)
        logs.mkdir()
        await world.until("ready", 2)

    world.run(use)


class NobodyListens(World):
    """What is told goes to a terminal that is gone."""

    def _on_event(self, *event: str) -> None:
        super()._on_event(*event)
        raise BrokenPipeError


def test_news_that_nobody_takes_end_no_process(tmp_path: Path) -> None:
    test_a_killed_process_is_started_again(NobodyListens(tmp_path))


def test_without_restart_it_is_left_down(tmp_path: Path) -> None:
    world = World(tmp_path, restart=False)
    world.child("n1", READY + UNTIL_TOLD)

    async def use(supervisor: Supervisor) -> None:
        await supervisor.ready(30)
        child = supervisor.children[NodeName("n1")]
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            await child.down.wait()
        assert child.starts == 1
        assert world.of("left down") == ["n1"]
        await supervisor.start_one(NodeName("n1"), 30)
        assert child.starts == 2

    world.run(use)


def test_one_process_is_stopped_and_started_on_command(world: World) -> None:
    world.child("n1", READY + UNTIL_TOLD)
    world.child("n2", READY + UNTIL_TOLD)

    async def use(supervisor: Supervisor) -> None:
        await supervisor.ready(30)
        one, other = NodeName("n1"), NodeName("n2")
        with pytest.raises(Conflict, match="not down"):
            await supervisor.start_one(one, 30)
        await supervisor.stop_one(one)
        assert (supervisor.children[one].pid, supervisor.children[other].starts) == (None, 1)
        with pytest.raises(Conflict, match="down already"):
            await supervisor.stop_one(one)
        with pytest.raises(NotFound, match="n1, n2"):
            await supervisor.stop_one(NodeName("n9"))
        await supervisor.start_one(one, 30)
        assert supervisor.children[one].pid is not None
        await supervisor.stop_one(other)  # and left so: a stop of all finds it down

    world.run(use)
    assert world.of("left down") == ["n1", "n2"]
    assert world.of("ended") == ["n1"]


def test_a_stop_on_the_heels_of_a_start_ends_it(world: World) -> None:
    world.child("n1", READY + UNTIL_TOLD)

    async def use(supervisor: Supervisor) -> None:
        await supervisor.ready(30)
        name = NodeName("n1")
        await supervisor.stop_one(name)
        started = asyncio.ensure_future(supervisor.start_one(name, 30))
        stopped = asyncio.ensure_future(supervisor.stop_one(name))
        async with asyncio.timeout(5):
            await stopped
        with pytest.raises(Unavailable, match="ended while starting"):
            await started
        assert supervisor.children[name].starts == 1

    world.run(use)


def test_a_process_that_waits_for_its_next_start_is_stopped_too(world: World) -> None:
    world.child("n1", 'line.send(b\'{"state":"failed","message":"no disk"}\\n\')\n')

    async def use(supervisor: Supervisor) -> None:
        await world.until("restarting")
        await supervisor.stop_one(NodeName("n1"))
        assert supervisor.children[NodeName("n1")].pid is None
        with pytest.raises(Unavailable, match=r"no disk|ended while starting"):
            await supervisor.start_one(NodeName("n1"), 30)

    world.run(use)


def test_a_process_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    world = World(tmp_path, kill_after_s=0.1)
    world.child("deaf", READY + "signal.sigwait([signal.SIGUSR1])\n")
    world.run(ready)
    assert world.of("killed") == ["deaf"]


def test_what_a_dying_process_prints_is_kept(world: World, tmp_path: Path) -> None:
    world.child("n1", "raise SystemExit('no more memory')\n")

    world.run(lambda _supervisor: world.until("restarting"))
    assert "no more memory" in (tmp_path / "n1.out").read_text()


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """The child waits for the end of its lifeline, as `Lifeline.watch` does."""
    script = tmp_path / "supervise.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio, sys
            from pinfold.env.real import OsClock
            from pinfold.model.ids import NodeName
            from pinfold.node.supervisor import ChildSpec, Supervisor

            CHILD = {(PRELUDE + ABANDONED)!r}

            async def main():
                spec = ChildSpec(name=NodeName("n1"), command=[sys.executable, "-c", CHILD],
                                 output={str(tmp_path / "out")!r})
                supervisor = Supervisor(OsClock(), [spec], lambda *event: None)
                supervisor.start()
                await supervisor.ready(30)
                print("up", flush=True)
                await asyncio.Event().wait()

            asyncio.run(main())
            """
        )
    )
    supervisor = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        assert supervisor.stdout.readline() == b"up\n"
        supervisor.kill()
        supervisor.wait()
        # its stdout pipe is not inherited, so wait on the child itself: its output says so
        child = int((tmp_path / "out").read_text().split()[0])
    descriptor = _pidfd(child)
    if descriptor is not None:
        _wait_readable(descriptor)
    assert (tmp_path / "out").read_text().split() == [str(child), "alone"]


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _wait_readable(descriptor: int) -> None:
    import select

    assert select.select([descriptor], [], [], 30)[0], "the child outlived its supervisor"
    os.close(descriptor)
