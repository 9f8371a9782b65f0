"""What can break, by name; `stage` says how to add one."""

from typing import Final

from pinfold.sim.faults import aimed, disks, groups, members, network, nodes
from pinfold.sim.faults.stage import Fault

FAULTS: Final[dict[str, Fault]] = {
    "crash": nodes.crash,
    "power-loss": nodes.lose_power,
    "power-cut": nodes.cut_power,
    "freeze": nodes.freeze,
    "clock-jump": nodes.jump_clock,
    "wrong-day": nodes.mistake_day,
    "crash-in-write": nodes.crash_in_write,
    "cut": network.cut,
    "isolate": network.isolate,
    "reset": network.reset,
    "slow-net": network.slow,
    "corrupt-net": network.corrupt,
    "slow-disk": disks.slow,
    "failing-flush": disks.fail_flush,
    "io-error": disks.fail_io,
    "full-disk": disks.fill,
    "rot": disks.rot,
    "swap": disks.swap,
    "lost-index": disks.lose_index,
    "strand": network.strand,
    "cut-at-answer": nodes.cut_at_answer,
    "new-members": members.change,
    "lost-answers": groups.lose_answers,
    "forgotten-vote": groups.forget_vote,
    "lost-memory": groups.lose_memory,
    "stutter": groups.stutter,
    "blink": nodes.blink,
    "rot-named": disks.rot_named,
    "rot-rows": disks.rot_rows,
    "kill-all": nodes.kill_all,
    "kill-at-answer": nodes.kill_at_answer,
    "stop": nodes.stop,
    "strike": aimed.strike,
    "strike-volumes": aimed.strike_volumes,
    "strike-logs": aimed.strike_logs,
    "strike-buckets": aimed.strike_buckets,
    "strike-splits": aimed.strike_splits,
}
"""Each with a pause in `plan.FAULT_RATES`."""
