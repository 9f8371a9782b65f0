"""Measurements, each printed as a ratio to a limit or a peer measured in the same run.

`python -m bench` runs the whole table; `python -m bench.NAME` one part.
"""
