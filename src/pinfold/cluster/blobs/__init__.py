"""Immutable blobs on W devices: the client that places them and the server beside a device.

`tally` decides, `client` sends, `server` answers. May import device, rpc and below.
"""
