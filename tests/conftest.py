"""For all tests: no verdict depends on how fast this machine is."""

from hypothesis import settings

settings.register_profile("pinfold", deadline=None)
settings.load_profile("pinfold")
