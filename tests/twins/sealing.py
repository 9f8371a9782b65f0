"""The sealing key of tests."""

import random
from typing import Final

from pinfold.accounts.sealing import KEY_BYTES, Sealer

SEALER: Final = Sealer(bytes(range(KEY_BYTES)), random.Random(1))
