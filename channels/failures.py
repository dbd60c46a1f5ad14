"""An exception on its way to another process: there it is of its own type again, whatever its `__init__` asks for.

Pickle makes an exception anew by `cls(*args)`. `args` are what its class gave to `super().__init__`, not what it was
called with, so this raises TypeError, or calls `__init__` with what means something else, for every class whose
`__init__` takes more than a message. Here one is made by the `__new__` and `__init__` of the builtin class that it
derives from, which take what is in `args`, and gets its attributes back. A class with a `__reduce__` of its own, or
known to `copyreg`, travels in that way, as long as it works.

What cannot be pickled inside an exception is left out alone, and a note on the exception says what and why. Of one
whose class cannot be pickled only the text travels, in a SerializationError.

As with pickle `__cause__`, `__context__` and the traceback stay behind: they are in the text that goes with a Failure.

A Failure is the pickle of (the pickle of the exception, traceback, quotation, notes): of one whose class the reader
cannot import, the last three still arrive.
"""

from __future__ import annotations

import builtins
import contextlib
import copyreg
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, MemberDescriptorType, WrapperDescriptorType
from typing import Any

from channels.base import Failure
from channels.errors import SerializationError

__all__ = ["describe", "dump_failure", "load_failure", "reduce_exception"]

Dumped = tuple[bytes, Sequence[Any]]
Dump = Callable[[Any], Dumped]

#: What code of the user's classes may raise when it is only asked how to send an instance, or what it says. Not
#: KeyboardInterrupt: that is somebody at a terminal.
_ANY = (Exception, SystemExit)
#: Py_TPFLAGS_HEAPTYPE: not a static type of C, as those of `builtins` are.
_HEAP_TYPE = 1 << 9
_OWN_WAY = ("__reduce__", "__reduce_ex__", "__setstate__")
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", None)  # Python 3.11
#: Those of a group are set by `__new__`, and read-only.
_WITHOUT_MEMBERS = (BaseException, _GROUP)


def dump_failure(failure: Failure, dump: Dump) -> Dumped:
    """The head and the buffers of a failure. `dump` makes those of any value, or raises.

    Never raises for what the exception is or has; see the top of this file for what arrives.
    """
    error = failure.error
    quotation, notes = _quote(error), _notes(error)
    try:
        head, buffers = _checked(error, type(error), dump)
    except _ANY:
        try:
            head, buffers = _checked_parts(_Salvage(dump).parts(error), dump)
        except _ANY as problem:
            head, buffers = dump(_substitute(quotation, notes, _text(problem)))
    return pickle.dumps((head, failure.traceback, quotation, notes), protocol=5), buffers


def load_failure(head: Any, buffers: Sequence[Any]) -> Failure:
    """The failure again. Raises what pickle raises for a head that `dump_failure` did not make."""
    inner, trace, quotation, notes = pickle.loads(head)
    try:
        error = pickle.loads(inner, buffers=buffers)
        if not isinstance(error, BaseException):
            raise TypeError(f"found a {type(error).__name__}")
        missing = [note for note in notes if note not in _notes(error)]  # a __reduce__ may not think of them
        if missing:
            BaseException.__setattr__(error, "__notes__", [*_notes(error), *missing])
    except _ANY as problem:
        error = _substitute(quotation, notes, f"it cannot be unpickled here: {describe(problem)}")
    return Failure(error, trace)


def reduce_exception(obj: Any) -> Any:
    """How an exception travels, in the terms of `__reduce__`; NotImplemented for one that has a way of its own.

    Also for what is no exception.
    """
    if not issubclass(type(obj), BaseException) or _has_own_way(type(obj)):
        return NotImplemented
    return _parts(obj).__reduce__()


def describe(error: BaseException) -> str:
    """Its type and text, also if its `__str__` raises."""
    return f"{type(error).__name__}: {_text(error)}"


# ---- parts ----


@dataclass(frozen=True)
class _Parts:
    """What an exception is made of. Unpickles as that exception."""

    cls: type[BaseException]
    #: The arguments of the builtin `__new__`, and its `args`, which the builtin `__init__` takes.
    new_args: tuple[Any, ...]
    args: tuple[Any, ...]
    #: Its `__dict__`.
    state: dict[str, Any]
    #: Attributes that are not in its `__dict__`: slots, and members of a builtin class, as `errno`. Not `obj` of an
    #: AttributeError: that may be the whole actor.
    members: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        made = _make, (self.cls, self.new_args, self.args)
        if not self.state and not self.members:
            return made
        # Not as an argument: an attribute may lead back to the exception.
        return (*made, (self.state, self.members), None, None, _restore)


def _parts(error: BaseException) -> _Parts:
    cls = type(error)
    args: tuple[Any, ...] = BaseException.__dict__["args"].__get__(error)
    members: dict[str, Any] = {}
    for heir in cls.__mro__:
        builtin = _is_builtin(heir)
        for name, member in () if heir in _WITHOUT_MEMBERS else vars(heir).items():
            if not isinstance(member, MemberDescriptorType) or name in members or (builtin and name == "obj"):
                continue
            try:
                value = member.__get__(error)
            except AttributeError:
                continue  # a slot that was never filled
            if value is not None or not builtin:
                members[name] = value
    new_args = args
    if _GROUP is not None and isinstance(error, _GROUP):
        new_args = _GROUP.message.__get__(error), _GROUP.exceptions.__get__(error)
    return _Parts(cls, new_args, args, dict(_dict(error)), members)


def _make(cls: type[BaseException], new_args: tuple[Any, ...], args: tuple[Any, ...]) -> BaseException:
    base: Any = _builtin_base(cls)
    error: BaseException = base.__new__(cls, *new_args)
    # UnicodeDecodeError and its like raise if their heirs never gave them what they need; then it had nothing of it.
    with contextlib.suppress(TypeError, ValueError):
        base.__init__(error, *args)
    BaseException.__setattr__(error, "args", args)  # of a third argument OSError makes its filename
    return error


def _restore(error: BaseException, attributes: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Not by setattr: a class may refuse it, as a frozen dataclass does, or do something else with it."""
    state, members = attributes
    for name, value in members.items():
        BaseException.__setattr__(error, name, value)
    _dict(error).update(state)


def _has_own_way(cls: type[BaseException]) -> bool:
    if cls in copyreg.dispatch_table:
        return True
    for heir in cls.__mro__:
        if _is_builtin(heir):
            continue
        names = vars(heir)
        if any(name in names for name in _OWN_WAY):
            return True
        # Of C: an instance may hold what none of its attributes shows.
        if isinstance(names.get("__new__"), BuiltinFunctionType):
            return True
        if isinstance(names.get("__init__"), WrapperDescriptorType):
            return True
    return False


def _builtin_base(cls: type) -> type[BaseException]:
    """The class that gave `cls` its layout, which need not be the first builtin one of its `__mro__`."""
    base: Any = cls
    while not _is_builtin(base):
        base = base.__base__
    return base  # type: ignore[no-any-return]


def _is_builtin(cls: type) -> bool:
    return not cls.__flags__ & _HEAP_TYPE and cls.__module__ == "builtins"


def _dict(error: BaseException) -> dict[str, Any]:
    """Its `__dict__`, past whatever its class makes of that name."""
    return BaseException.__dict__["__dict__"].__get__(error)  # type: ignore[no-any-return]


# ---- what cannot be sent ----


class _Salvage:
    """Finds out what of an exception, and of those inside it, can be sent."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        #: id of an exception -> what is sent in its place. A group has each of its members twice, in `args` too.
        self._done: dict[int, Any] = {}
        #: ids of exceptions whose `args` are being looked at.
        self._underway: set[int] = set()

    def parts(self, error: BaseException) -> _Parts:
        """The exception with what can be sent, and a note for each thing that cannot."""
        whole, lost = _parts(error), list[str]()
        name = whole.cls.__name__
        self._underway.add(id(error))
        args = self._arguments(name, whole.args, lost)
        new_args = args if whole.new_args is whole.args else self._arguments(name, whole.new_args, [])
        self._underway.remove(id(error))
        parts = self._done[id(error)] = _Parts(whole.cls, new_args, args, {}, {})
        for source, target in ((whole.state, parts.state), (whole.members, parts.members)):
            for key, value in source.items():
                if key == "__notes__":
                    continue
                try:
                    target[key] = self._sendable(value)
                except _ANY as problem:
                    lost.append(f"{name}.{key} was not sent: {_text(problem)}")
        notes = [*_notes(error), *lost]
        if notes:
            parts.state["__notes__"] = notes
        return parts

    def _arguments(self, name: str, args: tuple[Any, ...], lost: list[str]) -> tuple[Any, ...]:
        """Their number stays: one that cannot be sent is replaced by its text, which `str` of the exception shows."""
        sent = []
        for index, value in enumerate(args):
            try:
                sent.append(self._sendable(value))
            except _ANY as problem:
                sent.append(_text(value))
                lost.append(f"{name}.args[{index}] was not sent, this is its text: {_text(problem)}")
        return tuple(sent)

    def _sendable(self, value: Any) -> Any:
        """What to send for a value. Raises what says why it cannot be sent."""
        if isinstance(value, BaseException):
            return self._exception(value)
        if type(value) in (list, tuple) and value and all(isinstance(one, BaseException) for one in value):
            return type(value)(map(self._exception, value))
        head, buffers = self._dump(value)
        pickle.loads(head, buffers=buffers)
        return value

    def _exception(self, error: BaseException) -> Any:
        if id(error) in self._underway:
            raise ValueError(f"it leads back to this {type(error).__name__}")
        if id(error) not in self._done:
            try:
                _checked(error, type(error), self._dump)
                self._done[id(error)] = error
            except _ANY:
                self._done[id(error)] = self._member(error)
        return self._done[id(error)]

    def _member(self, error: BaseException) -> Any:
        try:
            parts = self.parts(error)
            _checked_parts(parts, self._dump)
        except _ANY as problem:
            return _substitute(_quote(error), _notes(error), _text(problem))
        return parts


def _checked(value: Any, cls: type[BaseException], dump: Dump) -> Dumped:
    """The pickle of an exception of that class, or of its parts, that was unpickled once.

    Its type is part of it: `__reduce__` of a base class may name that one. What a class says of itself is believed.
    """
    head, buffers = dump(value)
    found = pickle.loads(head, buffers=buffers)
    says_so = "__reduce__" in vars(cls) or "__reduce_ex__" in vars(cls)
    if type(found) is not cls and not (says_so and isinstance(found, BaseException)):
        raise SerializationError(f"a {cls.__qualname__} unpickles as a {type(found).__qualname__}")
    return head, buffers


def _checked_parts(parts: _Parts, dump: Dump) -> Dumped:
    """As `_checked`, of parts that can be sent one by one: it is the class that cannot be."""
    try:
        return _checked(parts, parts.cls, dump)
    except _ANY as problem:
        reason = describe(problem.__cause__ or problem)  # `dump` speaks of a value of our type
        raise SerializationError(
            f"its class cannot be pickled: {reason}; define {parts.cls.__qualname__} in a module, and not in a function"
        ) from problem


def _substitute(quotation: str, notes: list[str], reason: str) -> SerializationError:
    error = SerializationError(f"{quotation} (only its text was sent: {reason})")
    if notes:
        error.__notes__ = notes  # type: ignore[attr-defined]
    return error


def _quote(error: BaseException) -> str:
    return f"{type(error).__qualname__}: {_text(error)}"


def _notes(error: BaseException) -> list[str]:
    """Its notes, each a plain str; what else is under that name is not shown by tracebacks either."""
    notes = _dict(error).get("__notes__")
    return [str.__str__(note) for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


def _text(value: Any) -> str:
    try:
        return str.__str__(str(value))
    except _ANY as problem:  # a class of the user's; what it was about must still be reported
        return f"<its __str__ raised {type(problem).__name__}>"
