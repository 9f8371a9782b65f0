"""The cluster's own gauges, from a status report. Pure."""

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from pinfold.admin.report import Report

_STATES = ("healthy", "degraded", "unavailable")


def cluster_gauges(found: Report) -> str:
    """Prometheus text of what no single process knows."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"pinfold_cluster_{name}", text, labels, registry=registry)

    state = gauge("state", "1 for the state the cluster is in.", ("state",))
    for name in _STATES:
        state.labels(name).set(found.state == name)
    up = gauge("node_up", "Whether a node of the map answers.", ("name", "role"))
    for node in found.nodes:
        up.labels(node["name"], node["role"]).set(node["state"] == "up")
    serving = gauge("device_serving", "Whether a device serves reads.", ("device", "on"))
    free = gauge("device_free_bytes", "Room left on a device.", ("device", "on"))
    slow = gauge("device_slow", "Whether a device is far slower than the others.", ("device", "on"))
    total = gauge("device_total_bytes", "Size of a device's file system.", ("device", "on"))
    for device in found.devices:
        labels = (str(device["id"]), device["node"])
        serving.labels(*labels).set(device["state"] in ("serving", "full"))
        slow.labels(*labels).set(bool(device.get("slow")))
        if device["total_bytes"] is not None:  # no value is better than a wrong one
            free.labels(*labels).set(device["free_bytes"])
            total.labels(*labels).set(device["total_bytes"])
    gauge("groups", "Row groups.").set(found.groups["total"])
    gauge("groups_with_primary", "Row groups that serve.").set(found.groups["with_primary"])
    gauge("groups_degraded", "Row groups with a lagging member.").set(found.groups["degraded"])
    if found.volumes is not None:
        gauge("volumes", "Volumes.").set(len(found.volumes))
        gauge("volume_bytes", "Size promised by all volumes.").set(
            sum(volume["size_bytes"] for volume in found.volumes)
        )
    gauge("findings", "Things an operator should know.").set(len(found.findings))
    return generate_latest(registry).decode()
