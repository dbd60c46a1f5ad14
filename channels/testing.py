"""The conformance suite of channels: each rule of `channels.base`, and each rule about values, as a function.

    check_channel(lambda spec: MyChannel(spec), open_writer, open_reader)

runs them all; `CHECKS` has them one by one, for a test runner. A check gets a `Subject` and raises AssertionError. The
ends live in threads of this process. Whatever has to wait is given WATCHDOG seconds; no speed is asserted.
"""

from __future__ import annotations

from collections.abc import Callable

import channels
from channels import testing_ends as ends
from channels import testing_values as values
from channels.base import Channel, Reader, Writer
from channels.spec import ChannelSpec
from channels.testing_subject import WATCHDOG, Subject

__all__ = ["CHECKS", "WATCHDOG", "Subject", "check_channel"]


def check_channel(
    make: Callable[[ChannelSpec], Channel],
    open_writer: Callable[[ChannelSpec], Writer] = channels.open_writer,
    open_reader: Callable[[ChannelSpec, int], Reader] = channels.open_reader,
    transport: str = "custom",
) -> None:
    """Check every rule on the channels that `make` makes. Raises AssertionError at the first that does not hold."""
    subject = Subject(make, open_writer, open_reader, transport)
    for check in CHECKS:
        try:
            check(subject)
        finally:
            subject.clean()


#: Every check, in the order in which `check_channel` runs them.
CHECKS: tuple[Callable[[Subject], None], ...] = (
    ends.every_reader_gets_every_message_in_order_exactly_once,
    ends.a_message_of_another_execution_is_refused,
    values.what_the_writer_changes_after_the_write_is_not_seen,
    values.kept_values_never_change_and_never_block,
    values.forwarded_values_never_change,
    values.arrays_come_out_read_only,
    ends.write_returns_while_a_slot_is_free_and_waits_when_none_is,
    ends.the_slowest_reader_holds_the_writer_back_until_it_closes,
    ends.a_failure_is_a_flag_and_an_exception_is_a_value,
    ends.after_a_close_readers_get_what_was_published_then_the_end,
    ends.without_readers_a_write_raises_channel_closed,
    ends.a_broken_channel_raises_at_every_end_with_the_reason,
    ends.close_wakes_the_waiting_reader,
    ends.close_of_the_last_reader_wakes_the_waiting_writer,
    ends.break_wakes_every_waiter,
    ends.closing_and_breaking_twice_is_allowed,
    ends.a_timeout_changes_nothing,
    ends.a_timeout_must_not_be_negative,
    ends.what_cannot_be_decoded_is_a_failure_of_its_execution,
    ends.what_cannot_be_encoded_is_refused_and_changes_nothing,
    ends.ready_says_whether_a_read_would_wait,
    ends.an_armed_reader_is_woken_by_a_message_a_close_and_a_break,
    ends.an_end_is_opened_once,
    ends.after_destroy_ends_stay_safe_and_new_ones_are_refused,
    ends.statistics_count_what_happened,
    values.values_come_out_as_they_went_in,
    values.dropped_values_give_their_memory_back,
    values.a_message_of_any_size_passes_up_to_max_message_bytes,
    values.a_message_is_serialized_once_for_all_readers,
)
