"""Ctrl-C at every point of a wait for a result: it costs one at most, and keeps no other thread waiting."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from types import FrameType
from typing import Any

import pytest

from channels import Channel, ChannelSpec, Writer, create_channel, open_reader, open_writer
from dagc.errors import GetTimeoutError, GraphError, ResultLostError
from dagc.inflight import Window
from dagc.receive import Receiver
from dagc.refs import ResultRef
from tests.interrupts import at_every_point, in_time, interrupted, interrupted_by
from tests.waiting import wait_until

HANG = 30
#: Seconds for what does not come.
SOON = 0.02


class Output:
    """An output channel, its receiver, and the refs of `count` executions that are under way."""

    def __init__(self, transport: str, count: int) -> None:
        self.channel: Channel = create_channel(ChannelSpec("Stage_0.forward", transport, readers=1, slots=count))
        self.writer: Writer = open_writer(self.channel.spec)
        self.reader = open_reader(self.channel.spec, 0)
        window = Window(1, count)
        self.receiver = Receiver(
            self.reader,
            window,
            0,
            HANG,
            "execution {} is under way".format,
            lambda error: error,
            lambda: self.channel.statistics().read[0],
            None,
        )
        self.refs = [ResultRef(self.receiver, execution) for execution in range(1, count + 1)]
        for ref in self.refs:
            window.begin([ref])

    def bring(self, *executions: int) -> None:
        for execution in executions:
            self.writer.write(execution * 10, execution)

    @property
    def waiting(self) -> bool:
        """Whether somebody has waited for a message."""
        return self.channel.statistics().reader_waits[0] > 0

    def close(self) -> None:
        self.writer.close()
        self.reader.close()
        self.channel.destroy()


@pytest.fixture(params=["shm", "local"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Grows whenever a thread is about to follow another."""
    follow = Receiver._follow
    calls: list[tuple[Any, ...]] = []

    def told(self: Receiver, *arguments: Any) -> None:
        calls.append(arguments)
        follow(self, *arguments)

    monkeypatch.setattr(Receiver, "_follow", told)
    return calls


def awaited(ref: ResultRef) -> None:
    """`await ref`, of what is there already."""
    for _ in ref.__await__():
        raise AssertionError("there was nothing to wait for")


@pytest.mark.parametrize("way", [ResultRef.get, awaited], ids=["get", "await"])
def test_an_interrupt_costs_at_most_one_result_and_keeps_nobody_waiting(
    transport: str, way: Callable[[ResultRef], Any]
) -> None:
    def check(point: int) -> bool:
        with closing(Output(transport, 4)) as output:
            first, second, third, fourth = output.refs
            output.bring(1, 2)
            came = interrupted(lambda: way(first), point)
            # Others may have to leave it to the one that was interrupted to come back, but not beyond their timeout.
            with suppress(GetTimeoutError):
                assert in_time(lambda: second.get(SOON)) == 20
            with suppress(*[ResultLostError] * came):
                assert first.get() == 10
            assert second.get() == 20
            output.bring(3, 4)
            assert in_time(third.get) == 30
            assert fourth.get() == 40
            return came

    at_every_point(check)


@pytest.mark.parametrize("way", [ResultRef.get, awaited], ids=["get", "await"])
def test_a_handler_that_asks_for_a_result_gets_it_or_is_refused(
    transport: str, way: Callable[[ResultRef], Any]
) -> None:
    """Whatever it interrupts: that is not disturbed."""

    def check(point: int) -> bool:
        with closing(Output(transport, 3)) as output:
            first, second, third = output.refs
            output.bring(1, 2, 3)

            def handle() -> None:
                with suppress(GraphError):
                    assert second.get(SOON) == 20

            came = interrupted_by(handle, lambda: way(first), point)
            assert [ref.get(SOON) for ref in (first, second)] == [10, 20]
            assert in_time(third.get) == 30
            return came

    at_every_point(check)


def test_a_lead_that_an_interrupt_kept_is_not_asked_for_again_and_again(
    transport: str, followed: list[tuple[Any, ...]]
) -> None:
    """Of a coroutine, which is interrupted as it is about to give the lead back."""

    def profile(frame: FrameType, event: str, _arg: Any) -> None:
        caller = frame.f_back
        if event == "call" and caller and (frame.f_code.co_name, caller.f_code.co_name) == ("_stop_leading", "_sleep"):
            sys.setprofile(None)
            raise KeyboardInterrupt

    with closing(Output(transport, 2)) as output:
        first, second = output.refs

        async def wait_for_it() -> None:
            sys.setprofile(profile)
            await first

        try:
            with pytest.raises(KeyboardInterrupt):
                asyncio.run(wait_for_it())
        finally:
            sys.setprofile(None)
        assert output.receiver._lead._is_owned()  # type: ignore[attr-defined]
        with pytest.raises(GetTimeoutError):
            in_time(lambda: second.get(SOON))
        assert 0 < len(followed) < 10
        output.bring(1, 2)
        assert [first.get(), in_time(second.get)] == [10, 20]


def test_an_interrupt_of_who_follows_another_thread_keeps_nobody_waiting(
    transport: str, followed: list[tuple[Any, ...]]
) -> None:
    def check(point: int) -> bool:
        with closing(Output(transport, 3)) as output:
            followed.clear()
            first, second, third = output.refs
            leader = started(first.get)
            wait_until(lambda: output.waiting)
            try:
                came = interrupted(lambda: second.get(SOON), point)
            except GetTimeoutError:
                came = False
                assert followed, "it was too late before it had begun"
            with pytest.raises(GetTimeoutError):
                in_time(lambda: third.get(SOON))
            output.bring(1, 2, 3)
            leader.join(HANG)
            assert not leader.is_alive()
            assert [second.get(), in_time(third.get)] == [20, 30]
            return came

    at_every_point(check)


def test_who_follows_goes_on_by_itself_if_the_leader_is_interrupted(transport: str) -> None:
    """Also where the leader could not wake it. Only a lead that was kept is waited for, until it is given back."""

    def check(point: int) -> bool:
        with closing(Output(transport, 3)) as output:
            first, second, third = output.refs
            came: list[bool] = []
            kept: list[bool] = []
            back = threading.Event()

            def lead() -> None:
                came.append(interrupted(first.get, point))
                kept.append(output.receiver._lead._is_owned())  # type: ignore[attr-defined]
                back.wait(HANG)
                third.get()

            leader = started(lead)
            wait_until(lambda: bool(came) or output.waiting)
            follower = started(second.get)
            wait_until(lambda: _is_in(follower, "_follow", "_take"))
            output.bring(1, 2)
            wait_until(lambda: bool(kept))
            if not kept[0]:
                follower.join(HANG)
                assert not follower.is_alive(), "nobody has woken it"
            output.bring(3)
            back.set()
            leader.join(HANG)
            follower.join(HANG)
            assert not leader.is_alive()
            assert not follower.is_alive()
            assert second.get() == 20
            return came[0]

    at_every_point(check)


def started(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def _is_in(thread: threading.Thread, *functions: str) -> bool:
    """Whether the thread is in a call of one of these."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name in functions:
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize("what", ["write", "read", "ready", "arm", "statistics"])
def test_an_interrupt_leaves_a_local_channel_as_good_as_before(what: str) -> None:
    def check(point: int) -> bool:
        with closing(Output("local", 4)) as output:
            writer, reader = output.writer, output.reader
            writer.write("first", 1)
            writer.write("second", 2)
            calls: dict[str, Callable[[], Any]] = {
                "write": lambda: writer.write("third", 3),
                "read": lambda: reader.read(1),
                "ready": reader.ready,
                "arm": reader.arm,
                "statistics": output.channel.statistics,
            }
            came = interrupted(calls[what], point)
            found = in_time(output.channel.statistics)
            if found.messages == 2:
                in_time(lambda: writer.write("third", 3))
            rest = ["first", "second", "third"][found.read[0] :]
            executions = itertools.count(found.read[0] + 1)
            assert [in_time(lambda: reader.read(next(executions), HANG)) for _ in rest] == rest
            assert not in_time(reader.ready)
            return came

    at_every_point(check)


def test_who_waits_for_a_local_channel_is_not_forgotten_if_its_writer_is_interrupted() -> None:
    def check(point: int) -> bool:
        with closing(Output("local", 4)) as output:
            found: list[Any] = []
            waiting = started(lambda: found.append(output.reader.read(1)))
            wait_until(lambda: output.waiting)
            came = interrupted(lambda: output.bring(1), point)
            if not output.channel.statistics().messages:
                output.bring(1)
            waiting.join(HANG)
            assert found == [10]
            return came

    at_every_point(check)


def test_a_signal_that_comes_while_a_message_is_looked_for_does_not_cost_it() -> None:
    """A reader that yields, and does not sleep, finds the message first and then hears of the signal."""
    channel = create_channel(ChannelSpec("x", "shm", readers=1, slots=2, yield_us=60e6))
    writer, reader = open_writer(channel.spec), open_reader(channel.spec, 0)
    told, tells = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def interrupt() -> None:
        wait_until(lambda: channel.statistics().reader_waits[0] > 0)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert select.select([told], [], [], HANG)[0], "it has arrived"
        writer.write("there", 1)

    before = signal.set_wakeup_fd(tells)
    try:
        interrupts = started(interrupt)
        with pytest.raises(KeyboardInterrupt):
            reader.read(1, HANG)
        interrupts.join(HANG)
        assert reader.read(1, 0) == "there"
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        os.close(tells)
        channel.destroy()
