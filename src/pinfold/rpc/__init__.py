"""Frames and sessions between nodes: many requests in flight on one connection per peer pair.

May import env, codec and model. Knows nothing of devices, groups or objects; the node layer
binds handlers to operations.
"""
