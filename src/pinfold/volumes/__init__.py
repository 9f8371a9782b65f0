"""Volumes as use cases, without NBD: lease, sessions, resync. May import cluster and below."""
