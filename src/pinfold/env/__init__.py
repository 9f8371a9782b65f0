"""Where non-determinism enters: clock, randomness, disk, network, threads and tasks.

Protocols (`api`) stand beside the real implementation (`real`); `pinfold.sim` supplies the other
one. Nothing outside this package and `sim` reads a clock, draws a random number, opens a file or
a socket, or starts a thread. It may import only `model`.
"""
