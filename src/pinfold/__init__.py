"""Pinfold: one storage cluster for objects (S3, Swift) and block volumes (NBD).

The packages below are layers; imports go down only, and import-linter holds it:
cli > node > sim > s3 | nbd | admin > objects | volumes | accounts > cluster >
device | rpc > codec > env > model. `docs/architecture.md` tells what each one is for.
"""

__version__ = "0.1.0"
