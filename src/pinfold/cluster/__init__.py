"""The map, the row log (groups), blob placement and extent sessions.

May import device, rpc and below.
"""
