"""Object use cases: buckets, objects, listings and multipart uploads, without HTTP in them.

Everything here is rows and blobs of `cluster.api`: bytes first (immutable, invisible), then one
change of rows that names them and checks the caller's conditions in the same log entry.
"""
