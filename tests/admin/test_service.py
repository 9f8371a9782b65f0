"""The admin server over a real socket, driven by the client the commands use."""

import asyncio
import http.client
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import pytest
import structlog

from pinfold.admin.api import View
from pinfold.admin.audit import Act
from pinfold.admin.client import AdminClient, AdminUnreachable
from pinfold.admin.gather import Gatherer
from pinfold.admin.service import CONNECTIONS_MAX, REQUESTS_MAX, AdminParts, AdminService
from pinfold.cluster.map import ClusterMap, Edit, NodeEntry, PolicyEntry
from pinfold.env.real import OsClock, real_env
from pinfold.model.errors import Conflict, Invalid, NotFound, PinfoldError, Unavailable
from pinfold.model.ids import NodeName
from pinfold.rpc.api import Answer

TOKEN = "t0ken"
MAP = ClusterMap(
    cluster_id=b"c" * 16,
    nodes={"n1": NodeEntry(role="storage"), "n2": NodeEntry(role="storage")},
    policies={"metadata": PolicyEntry(copies=3, write_quorum=2, part_power=0)},
)


class FixedMap:
    def get(self) -> ClusterMap:
        return MAP

    async def update(self, edit: Edit) -> ClusterMap:
        return edit(MAP)

    def watch(self, callback: Callable[[ClusterMap], None]) -> None:
        return

    async def close(self) -> None:
        return


class FixedPeers:
    """n1 leads the only group; n2 is down."""

    def call(self, node: NodeName, operation: str, **_: Any) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if node == "n2":
            future.set_exception(Unavailable("down"))
        elif operation == "node.status":
            groups = [{"group": 0, "view": 0}]
            future.set_result(Answer({"pid": 1, "groups": groups}, memoryview(b"")))
        else:
            future.set_result(Answer(None, memoryview(b"# TYPE up gauge\nup 1.0\n")))
        return future


class MemoryVolumes:
    def __init__(self) -> None:
        self.known: dict[str, View] = {}

    async def create(self, name: str, size_bytes: int) -> View:
        if name in self.known:
            raise Conflict(f"the volume {name} exists")
        self.known[name] = {"name": name, "size_bytes": size_bytes}
        return self.known[name]

    async def list(self) -> list[View]:
        return list(self.known.values())

    async def show(self, name: str) -> View:
        if name not in self.known:
            raise NotFound(f"no volume {name}")
        return self.known[name]

    async def resize(self, name: str, size_bytes: int, *, force: bool) -> View:
        if size_bytes < (await self.show(name))["size_bytes"] and not force:
            raise Conflict("shrinking loses data")
        self.known[name]["size_bytes"] = size_bytes
        return self.known[name]

    async def delete(self, name: str, *, force: bool) -> None:
        await self.show(name)
        del self.known[name]


SHOWN: View = {
    "group": 7,
    "state": "served",
    "primary": 2,
    "view": (5 << 16) | 2,
    "configuration": 3,
    "members": [1, 2, 3],
    "joining": [2, 3, 4],
    "learners": [],
    "silent": [1],
    "commit_op": 90,
    "digests": "equal",
    "devices": [
        {
            "device": 2,
            "node": "n2",
            "role": "serving",
            "standing": "member",
            "last_op": 90,
            "applied_op": 90,
            "lag": 0,
            "digest": "00112233",
        }
    ],
}


class MemoryGroups:
    """Group 7, which has lost its quorum."""

    async def list(self) -> list[View]:
        return [await self.show(7)]

    async def show(self, group: int) -> View:
        if group != 7:
            raise NotFound(f"no group {group}")
        return SHOWN

    async def force_members(self, group: int, members: Sequence[int]) -> View:
        if len(members) > 1:
            raise Conflict("a majority is alive")
        plan = {"survivor": members[0], "members": [*members], "given_up": [1, 3]}
        return {"group": group, **plan, "kept_op": 88, "committed_op": 90}


class MemoryUsers:
    def __init__(self) -> None:
        self.known: dict[str, View] = {}

    async def create(self, user_id: str, **details: Any) -> View:
        self.known[user_id] = {"id": user_id, **details}
        return self.known[user_id]

    async def list(self) -> list[View]:
        return list(self.known.values())

    async def delete(self, user_id: str) -> None:
        if self.known.pop(user_id, None) is None:
            raise NotFound(f"no user {user_id}")

    async def set_active(self, user_id: str, *, active: bool) -> View:
        self.known[user_id]["state"] = "active" if active else "disabled"
        return self.known[user_id]

    async def keys(self, user_id: str) -> Sequence[View]:
        return [{"access_key": "KEY", "user": user_id}]

    async def create_key(
        self, user_id: str, *, access_key: str | None, secret_key: str | None
    ) -> View:
        return {"user": user_id, "access_key": access_key or "DRAWN", "secret_key": secret_key}

    async def set_key_active(self, access_key: str, *, active: bool) -> View:
        return {"access_key": access_key, "state": "active" if active else "disabled"}

    async def delete_key(self, access_key: str) -> None:
        if access_key != "KEY":
            raise NotFound(f"no access key {access_key}")

    async def rotate_key(self, access_key: str) -> View:
        return {"access_key": f"{access_key}2", "secret_key": "drawn"}


def serve(
    use: Callable[[AdminClient, str], None], audit: Callable[[Act], None] = lambda act: None
) -> None:
    """Run `use`, which blocks, in a thread beside a live server."""

    async def main() -> None:
        env = real_env()
        service = AdminService(
            AdminParts(
                map=FixedMap(),
                gatherer=Gatherer(OsClock(), FixedMap(), FixedPeers()),  # type: ignore[arg-type]
                volumes=MemoryVolumes(),
                groups=MemoryGroups(),
                users=MemoryUsers(),
                token=lambda: TOKEN,
                version="1",
                restarts=lambda: True,
                log=structlog.get_logger(),
                audit=audit,
            )
        )
        await service.start("127.0.0.1", 0)
        url = f"http://127.0.0.1:{service.port}"
        lane = env.new_offload("client")
        try:
            await lane(use, AdminClient(url, TOKEN), url)
        finally:
            lane.close()
            await service.close()

    asyncio.run(main())


def test_volumes_from_creation_to_deletion() -> None:
    def use(client: AdminClient, _url: str) -> None:
        made = client.call("POST", "/v1/volumes", {"name": "a b/c", "size_bytes": 10})
        assert made == {"name": "a b/c", "size_bytes": 10}
        assert client.get("/v1/volumes") == {"volumes": [made]}
        assert client.get("/v1/volumes/a%20b%2Fc") == made
        with pytest.raises(Conflict, match="exists"):
            client.call("POST", "/v1/volumes", {"name": "a b/c", "size_bytes": 10})
        with pytest.raises(Conflict, match="shrinking"):
            client.call("PATCH", "/v1/volumes/a%20b%2Fc", {"size_bytes": 5})
        grown = client.call("PATCH", "/v1/volumes/a%20b%2Fc", {"size_bytes": 5, "force": True})
        assert grown["size_bytes"] == 5
        assert client.call("DELETE", "/v1/volumes/a%20b%2Fc") is None
        with pytest.raises(NotFound):
            client.get("/v1/volumes/a%20b%2Fc")

    serve(use)


def test_users() -> None:
    def use(client: AdminClient, _url: str) -> None:
        made = client.call("POST", "/v1/users", {"id": "alice", "access_key": "AK"})
        assert (made["id"], made["display_name"], made["access_key"]) == ("alice", "alice", "AK")
        assert len(client.get("/v1/users")["users"]) == 1
        client.call("DELETE", "/v1/users/alice")
        with pytest.raises(NotFound):
            client.call("DELETE", "/v1/users/alice")

    serve(use)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"name": "x"},
        {"name": "x", "size_bytes": "1"},
        {"name": "x", "size_bytes": 1.5},
        {"name": None, "size_bytes": 1},
        {"name": "x", "size_bytes": 1, "colour": "red"},
    ],
)
def test_a_bad_body_is_invalid_and_changes_nothing(body: Any) -> None:
    def use(client: AdminClient, _url: str) -> None:
        with pytest.raises(Invalid, match="request body"):
            client.call("POST", "/v1/volumes", body)
        assert client.get("/v1/volumes") == {"volumes": []}

    serve(use)


def test_without_the_token_only_health_and_metrics_are_answered() -> None:
    def use(_client: AdminClient, url: str) -> None:
        stranger = AdminClient(url, "wrong")
        for path in ("/v1/status", "/v1/volumes", "/nothing"):
            with pytest.raises(PinfoldError, match="token") as refused:
                stranger.get(path)
            assert refused.value.code == "unauthorized"
        assert stranger.get("/healthz") == {"ok": True}
        assert stranger.ready() == []

    serve(use)


def test_keys_and_users_are_ended_and_replaced() -> None:
    def use(client: AdminClient, _url: str) -> None:
        client.call("POST", "/v1/users", {"id": "alice"})
        assert client.call("PATCH", "/v1/users/alice", {"active": False})["state"] == "disabled"
        made = client.call("POST", "/v1/users/alice/keys", {"access_key": "KEY"})
        assert made["access_key"] == "KEY"
        assert client.get("/v1/users/alice/keys")["keys"][0]["user"] == "alice"
        assert client.call("PATCH", "/v1/keys/KEY", {"active": True})["state"] == "active"
        assert client.call("POST", "/v1/keys/KEY/rotate", {})["access_key"] == "KEY2"
        client.call("DELETE", "/v1/keys/KEY")
        with pytest.raises(NotFound):
            client.call("DELETE", "/v1/keys/OTHER")

    serve(use)


def test_what_operators_change_is_audited_without_secrets() -> None:
    acts: list[Act] = []

    def use(client: AdminClient, url: str) -> None:
        client.call(
            "POST", "/v1/users", {"id": "alice", "access_key": "AK", "secret_key": "s3cr3t-word"}
        )
        client.get("/v1/users")
        with pytest.raises(NotFound):
            client.call("DELETE", "/v1/users/bob")
        with pytest.raises(PinfoldError, match="token"):
            AdminClient(url, "wrong").call("DELETE", "/v1/users/alice")

    serve(use, acts.append)
    created, refused = acts  # no line for reads, none for who has no token
    assert (created.method, created.path, created.outcome) == ("POST", "/v1/users", "done")
    assert created.asked["id"] == "alice"
    assert "s3cr3t-word" not in repr(acts)
    assert (refused.path, refused.outcome) == ("/v1/users/bob", "not-found: no user bob")


def test_unknown_paths_and_methods_are_refused() -> None:
    def use(client: AdminClient, _url: str) -> None:
        with pytest.raises(PinfoldError, match="Not Found"):
            client.get("/v2/status")
        with pytest.raises(PinfoldError, match="Method Not Allowed"):
            client.call("PUT", "/v1/volumes")

    serve(use)


def test_status_tells_what_is_down() -> None:
    def use(client: AdminClient, _url: str) -> None:
        found = client.get("/v1/status")
        assert found["state"] == "degraded"
        assert [node["state"] for node in found["nodes"]] == ["up", "down"]
        assert found["groups"]["with_primary"] == 1

    serve(use)


def test_metrics_of_all_processes_and_of_the_cluster() -> None:
    def use(_client: AdminClient, url: str) -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'up{node="n1"} 1.0' in text
        assert 'pinfold_cluster_node_up{name="n2",role="storage"} 0.0' in text

    serve(use)


def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(AdminUnreachable):
        AdminClient("http://127.0.0.1:1", TOKEN).get("/v1/status")


def test_thousands_of_idle_connections_do_not_keep_an_operator_out() -> None:
    def use(client: AdminClient, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(CONNECTIONS_MAX + 300)]
        assert client.get("/healthz") == {"ok": True}
        poll = select.poll()
        for one in idle:
            poll.register(one, select.POLLIN)
        assert 100 < len(poll.poll(10_000)) <= 301  # a burst is accepted before it is counted
        for one in idle:
            one.close()

    serve(use)


def test_more_requests_than_the_limit_are_told_to_come_again() -> None:
    def use(_client: AdminClient, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        head = (
            f"POST /v1/volumes HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Length: 9\r\n\r\n"
        )
        waiting = [socket.create_connection((host, int(port))) for _ in range(REQUESTS_MAX)]
        for one in waiting:
            one.sendall(head.encode())  # and never a body
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        statuses = set()
        until = time.monotonic() + 10
        while 503 not in statuses and time.monotonic() < until:
            connection.request("GET", "/v1/users", headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            answer.read()
            statuses.add(answer.status)
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        for path in ("/healthz", "/readyz", "/metrics"):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        connection.close()
        for one in waiting:
            one.close()

    serve(use)


def test_groups_are_shown_and_forced_only_by_who_says_yes() -> None:
    def use(client: AdminClient, _url: str) -> None:
        assert client.get("/v1/groups") == {"groups": [SHOWN]}
        assert client.get("/v1/groups/7")["members"] == [1, 2, 3]
        for unknown in ("8", "seven", "-1", "\u0667"):
            with pytest.raises(NotFound):
                client.get("/v1/groups/" + quote(unknown))
        path = "/v1/groups/7/force-members"
        for body in ({"members": [1]}, {"members": [], "yes_i_lose_data": True}):
            with pytest.raises(Invalid):
                client.call("POST", path, body)
        with pytest.raises(Invalid, match="yes_i_lose_data"):
            client.call("POST", path, {"members": [1], "yes_i_lose_data": False})
        with pytest.raises(Conflict, match="majority"):
            client.call("POST", path, {"members": [1, 2], "yes_i_lose_data": True})
        done = client.call("POST", path, {"members": [1], "yes_i_lose_data": True})
        assert (done["members"], done["kept_op"]) == ([1], 88)

    serve(use)
