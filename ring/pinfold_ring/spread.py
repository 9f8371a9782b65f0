"""How far rows of a table are from the widest spread their weights allow.

The measure, per partition and level: replicas beyond a domain's high bound, plus replicas missing
below a domain's low bound. Zero at every level is the widest spread there is.
"""

import numpy as np

from pinfold_ring.shares import LEVELS, Ints, Shares


def violations(shares: Shares, rows: Ints) -> Ints:
    """The measure for columns of `rows` [replicas, n] of device positions, as [levels, n]."""
    measured = np.empty((len(LEVELS), rows.shape[1]), np.int64)
    for level in range(len(LEVELS)):
        domains = shares.tree.tiers[level][rows]
        low = shares.low[level][domains]
        high = shares.high[level][domains]
        result = np.full(rows.shape[1], int(shares.low[level].sum()), np.int64)
        for replica in range(len(rows)):
            earlier = (domains[:replica] == domains[replica]).sum(0)
            result += earlier >= high[replica]
            result -= earlier < low[replica]
        measured[level] = result
    return measured
