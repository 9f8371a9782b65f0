"""The supervisor: retries, pace, status; bugs end it and errors do not."""

import asyncio
from dataclasses import dataclass

import msgspec
import pytest

from pinfold.care.worker import Found, Supervisor
from pinfold.model.errors import Unavailable
from pinfold.model.settings import WorkerSettings
from tests.cluster.group_cluster import env_for
from tests.twins.virtual import run_virtual

SETTINGS = WorkerSettings(
    bytes_per_s=1000, operations_per_s=100, jobs_at_once=2, queue_max=8, tries_max=3, backoff_s=1.0
)


@dataclass(frozen=True)
class Task:
    key: int
    rank: int = 0
    size: int = 0


class Digger:
    """Finds the tasks it is given; `fails` says how often each fails first."""

    name = "digger"

    def __init__(self, tasks, fails=None, error=None):
        self.left = list(tasks)
        self.fails = dict(fails or {})
        self.error = error or Unavailable("not now")
        self.began = []
        self.done = []
        self.given_up = []
        self.running = self.most = 0
        self.rooms = []
        self.find_error = None

    async def find(self, room):
        self.rooms.append(room)
        if self.find_error is not None:
            error, self.find_error = self.find_error, None
            raise error
        found, self.left = self.left[:room], self.left[room:]
        return Found(jobs=found, wait_s=0.0 if self.left else 5.0)

    async def run(self, job):
        self.began.append((asyncio.get_running_loop().time(), job.key))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.05)
        self.running -= 1
        if self.fails.get(job.key, 0):
            self.fails[job.key] -= 1
            raise self.error
        self.done.append(job.key)
        return job.size

    def gave_up(self, job):
        self.given_up.append(job.key)


def supervise(digger, seconds, load=0.0, look=lambda supervisor: None, **changed):
    """Run a worker for some virtual seconds; its status then."""
    settings = msgspec.structs.replace(SETTINGS, **changed)

    async def scenario():
        supervisor = Supervisor(env_for(1), digger, settings, lambda: load)
        task = asyncio.get_running_loop().create_task(supervisor.run())
        await asyncio.wait({task}, timeout=seconds)
        look(supervisor)
        status = supervisor.status()
        if task.done():
            return status, task.exception()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return status, None

    return run_virtual(scenario)


def test_every_job_is_done_once_a_few_at_a_time_and_the_queue_stays_bounded():
    digger = Digger([Task(n) for n in range(40)])
    status, _ = supervise(digger, 30)
    assert sorted(digger.done) == list(range(40))
    assert digger.most == 2
    assert max(digger.rooms) == 8
    assert min(digger.rooms) >= 4, "looking for less is not worth it"
    assert (status.done, status.queued, status.state, status.failed) == (40, 0, "idle", 0)


def test_a_job_that_fails_is_tried_again_later_and_then_left():
    digger = Digger([Task(1), Task(2)], fails={1: 2, 2: 9})
    status, _ = supervise(digger, 30)
    assert digger.done == [1]
    assert digger.given_up == [2]
    times = [when for when, key in digger.began if key == 1]
    assert len(times) == 3
    assert times[1] - times[0] >= 1.0
    assert times[2] - times[1] >= 2.0
    assert (status.failed, status.last_error) == (1, "not now")


def test_bytes_and_operations_keep_the_pace_and_a_busy_node_gets_less():
    quick = Digger([Task(n, size=500) for n in range(20)])
    supervise(quick, 6)
    slow = Digger([Task(n, size=500) for n in range(20)])
    supervise(slow, 6, load=0.8)
    assert 11 <= len(quick.began) <= 13
    assert 2 <= len(slow.began) <= 4
    small = Digger([Task(n) for n in range(8)])
    supervise(small, 0.5)
    first, last = small.began[0][0], small.began[7][0]
    assert last - first >= 7 * 0.01 - 1e-6
    assert first <= 2 * 0.01


class Searcher(Digger):
    """Takes its time to find nothing."""

    async def find(self, room):
        self.rooms.append(room)
        await asyncio.sleep(0.1)
        return Found()


def test_looking_takes_its_share_of_the_time_and_less_of_a_busy_node():
    idle = Searcher([])
    supervise(idle, 21, look_share=0.05)
    assert 9 <= len(idle.rooms) <= 11
    busy = Searcher([])
    supervise(busy, 21, load=0.5, look_share=0.05)
    assert 4 <= len(busy.rooms) <= 6


def test_a_look_that_fails_is_repeated_after_a_pause():
    digger = Digger([Task(1)])
    digger.find_error = Unavailable("no primary")
    status, _ = supervise(digger, 0.9)
    assert (digger.done, status.last_error) == ([], "no primary")
    digger = Digger([Task(1)])
    digger.find_error = Unavailable("no primary")
    supervise(digger, 1.5)
    assert digger.done == [1]


def test_waking_looks_at_once():
    digger = Digger([])

    async def scenario():
        supervisor = Supervisor(env_for(1), digger, SETTINGS, lambda: 0.0)
        task = asyncio.get_running_loop().create_task(supervisor.run())
        await asyncio.sleep(1.0)
        digger.left.append(Task(1))
        supervisor.wake()
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(scenario)
    assert digger.done == [1]


def test_a_bug_in_a_job_ends_the_worker_and_is_told():
    digger = Digger([Task(1)], fails={1: 1}, error=ZeroDivisionError("a bug"))
    status, error = supervise(digger, 5)
    assert isinstance(error, ZeroDivisionError)
    assert status.state == "stopped"


def test_the_status_says_what_is_left():
    digger = Digger([Task(n, size=250) for n in range(8)])
    status, _ = supervise(digger, 1.1)
    assert status.state == "working"
    assert 2 <= status.queued <= 6
    assert status.queued_bytes == 250 * status.queued
    assert status.done_bytes == 250 * status.done
    assert status.left_s == pytest.approx(0.25 * status.queued)
