"""Judges of recorded histories. They know what was promised, not how it is kept.

Nothing here imports the product but `model`: a mistake shared with the code under test would be
invisible. Each checker takes plain frozen values and returns findings; none is a pass.
"""
