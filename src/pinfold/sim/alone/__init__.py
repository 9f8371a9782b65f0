"""One device without a cluster, driven through `device.api` and killed again and again.

In a cluster a device is asked for little at a time, and what it does wrong is masked by others.
Alone it lives some tens of lives for the CPU that a cluster takes to elect a primary: every store
is used at once and out of step, limits are small enough that everything wraps, moves and is given
back within a fraction of a second, and each life ends at an instant that matters. The auditor
compares after every opening, and the checks of `sim.autopsy` are made on what each life left.
"""
