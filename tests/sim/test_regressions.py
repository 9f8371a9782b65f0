"""Seeds that once broke a promise.

What a seed does changes whenever a plan, a fault or a client does, so what was found is held by a
directed test each, named here; the seeds are kept because they cost little and wander nearby.
"""

from typing import Final

import pytest

from pinfold.sim.run import run_seed

FOUND: Final = {
    113: "copied pieces larger than a device's journal record: a member never came back "
    "(node/test_settings: volumes.piece_bytes)",
    383: "a full device to which nothing could be written stayed full for ever "
    "(device/test_failures: serves_again_once_others_made_room)",
    6011: "a restarted member that heard of the commit point before it had voted stayed behind "
    "(cluster/test_replica: asks_what_its_log_is_worth)",
    20035: "the same",
    30094: "a journal that once found no room refused all although it had let a segment go "
    "(device/test_failures: once_it_has_let_a_segment_go)",
    40024: "a read of a group of five waited for ever when its last confirmation was one too few "
    "(cluster/test_confirm)",
    50005: "a member that lost its extents while others were out kept a takeover waiting for ever "
    "(volumes/test_session: keeps_nobody_waiting)",
    20102: "a returning member of a volume copied from one that a takeover had not settled yet: "
    "members in sync differed (volumes/test_session_rules)",
    20124: "the same as 6011, in two groups at once",
    6000069: "a device that lost its index twice believed what its journal said of the first loss: "
    "members in sync differed (device/test_rebuild: before_an_index_was_lost_again)",
    32627: "a group that took no more changes for a while was held to take some "
    "(cluster/test_op_results: answers_busy_until_it_may)",
    72015: "a member of an idle group kept a rotten row for ever: it asked for a copy only when "
    "somebody wrote (cluster/test_rotten_members: copied_though_nobody_writes)",
    860005: "a deleted blob that a rotten row had left without a place came back with a rebuilt "
    "index (sim/test_audit: whose_place_was_lost)",
    870048: "a device was held to answered writes that a flush which failed had left to be lost",
    7000278: "a volume at rest did not notice that a member had lost its extents "
    "(volumes/test_session: at_rest_that_lost_its_extents)",
    7000311: "callers asked for ever a member that its group had left behind in a view of its own "
    "(cluster/test_row_client: left_behind)",
    31000634: "a device whose quarantine took all the room of a look ended the worker that repairs "
    "(care/test_quarantine)",
    32000499: "a pack that a crash had left without its header kept a device with a rebuilt index "
    "from ever opening (device/test_rebuild: left_without_its_header)",
    471590365: "a begun deletion of a bucket was called refused because a device was full, "
    "and others ended it (objects/test_buckets: leaves_the_outcome_of_a_deletion)",
}
"""By seed, what it prevented and where the directed test is."""


@pytest.mark.parametrize("seed", FOUND)
def test_what_a_seed_has_found_stays_away(seed: int) -> None:
    result = run_seed(seed)
    assert not result.violations, f"{FOUND[seed]}\n{result.violations[0]}"
