"""The conformance suite of communicators: each rule of `channels.communicators.base` as a function.

    check_communicator(MyTransport())

runs them all, with each rank in a process of its own; `CHECKS` has them one by one, for a test runner. A check gets a
`Subject` and raises AssertionError. Whatever has to wait is given WATCHDOG seconds; no speed is asserted.

The transport is sent to the ranks, so it must be picklable; its class is found there by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from channels import testing_groups as groups
from channels import testing_mismatches as mismatches
from channels import testing_moves as moves
from channels import testing_reductions as reductions
from channels.communicators.base import Transport
from channels.testing_group_subject import Subject
from channels.testing_ranks import WATCHDOG, Party, ProcessParty, ThreadParty

__all__ = ["CHECKS", "WATCHDOG", "WORLD_SIZE", "Party", "ProcessParty", "Subject", "ThreadParty", "check_communicator"]

#: Ranks of the largest group that is made: more than many machines have cores.
WORLD_SIZE = 8


def check_communicator(
    transport: Transport, party: Callable[[], Party] = ProcessParty, largest: int = WORLD_SIZE
) -> None:
    """Check every rule on the groups that the transport makes. Raises AssertionError at the first that does not hold.

    `largest`: how many ranks there may be; at least 2.
    """
    parties: Sequence[Party] = [party() for _ in range(largest)]
    try:
        for check in CHECKS:
            check(Subject(transport, parties))
    finally:
        for one in parties:
            one.close()


#: Every check, in the order in which `check_communicator` runs them.
CHECKS: tuple[Callable[[Subject], None], ...] = (
    reductions.every_op_of_every_dtype_is_right_on_every_rank,
    reductions.every_size_is_right,
    reductions.more_ranks_than_cores_reduce_gather_and_scatter,
    reductions.special_values_come_out_as_they_should,
    reductions.integers_wrap_around_and_their_average_is_truncated,
    reductions.the_result_is_the_same_on_every_rank_and_in_every_run,
    moves.results_go_where_they_should,
    moves.any_strides_are_read_and_only_contiguous_tensors_written,
    moves.results_are_of_the_library_of_the_argument,
    moves.a_broadcast_comes_from_every_root,
    moves.tensors_are_sent_in_order_between_every_pair,
    moves.several_tensors_move_as_one,
    moves.a_work_may_be_dropped,
    moves.a_group_of_one_works,
    moves.any_sequence_of_operations_is_right,
    mismatches.every_mismatch_is_told_to_every_rank_and_changes_nothing,
    mismatches.a_mismatch_among_several_tensors_is_told_to_both,
    mismatches.a_rank_that_declines_is_told_to_all,
    mismatches.every_rank_hears_why_one_declined,
    mismatches.what_no_rank_can_do_is_refused_before_anybody_hears_of_it,
    mismatches.a_first_dimension_that_cannot_be_divided_is_refused_on_every_rank,
    groups.abort_of_a_member_reaches_every_rank_with_its_reason,
    groups.abort_of_the_creator_reaches_every_rank_also_when_members_have_died,
    groups.check_tells_what_has_gone_wrong_with_what_runs_on_its_own,
    groups.abort_from_another_thread_ends_the_wait,
    groups.a_rank_that_does_not_come_breaks_the_group,
    groups.a_rank_that_does_not_join_breaks_the_group,
    groups.whoever_waits_for_a_rank_that_left_is_told,
    groups.destroy_disturbs_nobody_who_is_still_busy,
    groups.destroying_and_aborting_twice_is_allowed,
    groups.an_end_of_the_creators_handle_breaks_the_group,
    groups.wrong_ids_ranks_and_sizes_are_refused,
    groups.groups_do_not_disturb_each_other,
)
