"""The NBD server: handshake and transmission as synchronous objects in a thin shell.

May import volumes and below.
"""
