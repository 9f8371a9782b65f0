"""Workers that keep what is stored whole and tidy: missing copies, quarantined and orphaned blobs.

Each is a `worker.Worker` under a `worker.Supervisor`. They change nothing that clients see: rows
are only read, copies only made or, when nothing names them any more, removed.
"""
