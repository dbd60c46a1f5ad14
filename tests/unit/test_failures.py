"""Exceptions that travel: of their own type, with their attributes, without what cannot be pickled."""

from __future__ import annotations

import builtins
import copyreg
import dataclasses
import email.message
import importlib
import io
import json
import sys
import threading
import traceback
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels import Failure, SerializationError
from channels.serialize import pack, unpack
from runtime.errors import add_note, formatted
from runtime.outcomes import pack_failure

LOCK = threading.Lock()
Group: Any = getattr(builtins, "ExceptionGroup", None)
BaseGroup: Any = getattr(builtins, "BaseExceptionGroup", None)
needs_groups = pytest.mark.skipif(Group is None, reason="ExceptionGroup came with Python 3.11")


class NeedsTwo(ValueError):
    def __init__(self, one: Any, two: Any) -> None:
        super().__init__(f"{one} and {two}")
        self.one = one
        self.two = two


class NeedsResponse(Exception):
    def __init__(self, message: str, *, response: Any) -> None:
        super().__init__(message)
        self.response = response


class Rewords(Exception):
    """cls(*args) does not raise: it says something else."""

    made = 0

    def __init__(self, what: str) -> None:
        super().__init__(f"bad {what}")
        Rewords.made += 1


class Slotted(Exception):
    __slots__ = ("code", "never_set", "obj")

    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code
        self.obj = None


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int
    lock: Any = None


class OfAFile(OSError):
    def __init__(self, path: str, *, hint: str) -> None:
        super().__init__(2, "not there", path)
        self.hint = hint


class NeverCallsSuper(UnicodeDecodeError):
    def __new__(cls, _what: str) -> Any:
        return super().__new__(cls)

    def __init__(self, what: str) -> None:
        self.what = what


class TwoBuiltins(KeyError, OSError):
    """Its layout is that of an OSError, its first builtin base another."""

    def __init__(self, key: str, *, errno: int) -> None:
        super().__init__(key)
        self.errno = errno


class NewOfTwo(Exception):
    def __new__(cls, one: int, *, two: int) -> Any:
        error = super().__new__(cls, one)
        error.two = two
        return error

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(one)

    two: int


class WithProperty(Exception):
    @property
    def code(self) -> int:
        return 7


class OwnReduce(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__("own")
        self.numbers = (first, second)
        self.cache = "of the process"

    def __reduce__(self) -> Any:
        return _own, self.numbers


def _own(first: int, second: int) -> OwnReduce:
    error = OwnReduce(first, second)
    error.cache = "made anew"
    return error


class HeirOfReduce(OwnReduce):
    """Would arrive as its base class."""


class ReduceRaises(ValueError):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


class ReduceExits(ValueError):
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class SetstateRaises(ValueError):
    def __setstate__(self, _: Any) -> None:
        raise RuntimeError("no state")


class SetattrRaises(ValueError):
    def __setattr__(self, _name: str, _value: Any) -> None:
        raise RuntimeError("no attributes")


class TextRaises(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class OddNotes(ValueError):
    __notes__ = 7


def local_class() -> type[ValueError]:
    lock = threading.Lock()

    class Local(ValueError):
        def held(self) -> bool:
            return lock.locked()

    return Local


def travelled(error: BaseException) -> Any:
    failure = unpack(pack(Failure(error, "Traceback: there")))
    assert isinstance(failure, Failure)
    assert failure.traceback == "Traceback: there"
    return failure.unwrap()


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


# ---- types, args, attributes ----


@pytest.mark.parametrize(
    "error",
    [
        NeedsTwo(1, 2),
        NeedsResponse("429", response={"code": 429}),
        Rewords("luck"),
        Frozen(3),
        OfAFile("/nowhere", hint="look elsewhere"),
        NeverCallsSuper("quiet"),
        TwoBuiltins("k", errno=5),
        NewOfTwo(1, two=2),
        ReduceRaises("r"),
        ReduceExits("e"),
        SetstateRaises("s"),
        SetattrRaises("a"),
        HeirOfReduce(1, 2),
        FileNotFoundError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        SyntaxError("bad", ("file", 1, 3, "a b", 1, 4)),
        ImportError("no", name="module", path="/path"),
        json.JSONDecodeError("bad", "doc", 1),
        StopIteration(4),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_keeps_type_args_text_and_attributes(error: BaseException) -> None:
    found = travelled(error)
    assert type(found) is type(error)
    assert found.args == error.args
    assert str(found) == str(error)
    assert found.__dict__ == error.__dict__
    for name in ("errno", "filename", "lineno", "name", "path", "value", "start", "reason"):
        assert getattr(found, name, None) == getattr(error, name, None)
    assert "Traceback: there" in str(found.__cause__)


def test_init_is_not_called_again() -> None:
    error = Rewords("luck")
    before = Rewords.made
    travelled(error)
    assert Rewords.made == before


PLAIN = st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.binary()


@given(
    st.sampled_from([ValueError, KeyError, OSError, NeedsTwo, NeedsResponse, Frozen, ImportError, SyntaxError]),
    st.lists(PLAIN, max_size=3),
    st.dictionaries(st.text(min_size=1), PLAIN, max_size=3),
)
@settings(deadline=None)
def test_whatever_args_and_attributes_are_set(cls: Any, args: list[Any], attributes: dict[str, Any]) -> None:
    error = cls.__new__(cls)
    BaseException.__setattr__(error, "args", tuple(args))
    error.__dict__.update(attributes)
    found = travelled(error)
    assert type(found) is cls
    assert found.args == tuple(args)
    assert {name: found.__dict__[name] for name in attributes} == attributes


def test_slots() -> None:
    found = travelled(Slotted(code=5))
    assert found.code == 5
    assert found.obj is None
    assert not hasattr(found, "never_set")


def test_an_attribute_that_its_class_hides() -> None:
    error = WithProperty()
    error.__dict__["code"] = 5
    assert travelled(error).__dict__["code"] == 5


def test_members_of_builtin_classes_that_were_set_later() -> None:
    error = OSError("bad")
    error.filename = "name"
    assert travelled(error).filename == "name"


def test_an_attribute_error_does_not_send_the_object() -> None:
    with pytest.raises(AttributeError, match="missing") as caught:
        LOCK.missing  # type: ignore[attr-defined]  # noqa: B018
    found = travelled(caught.value)
    assert (found.name, found.obj) == ("missing", None)
    assert not notes(found)


def test_an_attribute_that_leads_back() -> None:
    plain, dropped = NeedsResponse("p", response=1), NeedsResponse("d", response=LOCK)
    for error in (plain, dropped):
        error.me = error  # type: ignore[attr-defined]
        found = travelled(error)
        assert found.me is found


def test_exceptions_inside_values() -> None:
    found = unpack(pack([NeedsTwo(1, 2), {"k": Rewords("luck")}]))
    assert type(found[0]) is NeedsTwo
    assert found[0].one == 1
    assert found[1]["k"].args == ("bad luck",)
    with pytest.raises(SerializationError, match="lock"):  # a value is sent as it is, or not at all
        pack([NeedsResponse("r", response=LOCK)])


# ---- ways of their own ----


def test_a_reduce_that_works_is_used() -> None:
    found = travelled(OwnReduce(1, 2))
    assert found.numbers == (1, 2)
    assert found.cache == "made anew"


def test_notes_travel_also_where_a_reduce_forgets_them() -> None:
    error = OwnReduce(1, 2)
    add_note(error, "kept")
    found = travelled(error)
    assert found.cache == "made anew"
    assert notes(found) == ["kept"]


def test_a_reducer_that_the_user_registered_is_used() -> None:
    class Registered(Exception):
        how = ""

    def anew(text: str) -> Registered:
        error = Registered(text)
        error.how = "registered"
        return error

    copyreg.pickle(Registered, lambda error: (anew, error.args))  # type: ignore[arg-type,return-value]
    try:
        assert travelled(Registered("x")).how == "registered"
    finally:
        del copyreg.dispatch_table[Registered]


def test_a_reduce_may_name_another_type() -> None:
    class Private(Exception):
        def __reduce__(self) -> Any:
            return RuntimeError, ("public",)

    found = travelled(Private())
    assert type(found) is RuntimeError
    assert found.args == ("public",)


def test_a_reduce_that_makes_no_exception_is_not_used() -> None:
    class Odd(ValueError):
        def __reduce__(self) -> Any:
            return dict, ()

    assert type(travelled(Odd("odd"))) is Odd


# ---- what cannot be pickled ----


def test_an_attribute_that_cannot_be_pickled_is_left_out_alone() -> None:
    error = NeedsResponse("429", response=LOCK)
    error.code = 429  # type: ignore[attr-defined]
    add_note(error, "before")
    found = travelled(error)
    assert type(found) is NeedsResponse
    assert found.args == ("429",)
    assert found.code == 429
    assert not hasattr(found, "response")
    first, lost = notes(found)
    assert first == "before"
    assert lost.startswith("NeedsResponse.response was not sent: a value of type lock cannot be pickled")
    assert error.response is LOCK
    assert notes(error) == ["before"]


def test_an_attribute_that_cannot_be_unpickled_is_left_out_alone() -> None:
    found = travelled(NeedsResponse("r", response=[_Unloadable()]))
    assert type(found) is NeedsResponse
    (lost,) = notes(found)
    assert "no load" in lost


class _Unloadable:
    def __reduce__(self) -> Any:
        return _no_load, ()


def _no_load() -> None:
    raise RuntimeError("no load")


def test_an_argument_that_cannot_be_pickled_is_replaced_by_its_text() -> None:
    error = ValueError(LOCK)
    found = travelled(error)
    assert type(found) is ValueError
    assert found.args == (str(LOCK),)
    assert str(found) == str(error)
    assert notes(found)[0].startswith("ValueError.args[0] was not sent")


def test_a_slot_and_a_frozen_dataclass_that_lose_something() -> None:
    slotted = travelled(Slotted(code=LOCK))  # type: ignore[arg-type]
    assert not hasattr(slotted, "code")
    frozen = travelled(Frozen(3, LOCK))
    assert type(frozen) is Frozen
    assert frozen.code == 3
    assert len(notes(frozen)) == 2


def test_the_error_of_a_library_with_an_open_file() -> None:
    with open(__file__, "rb") as file:
        found = travelled(urllib.error.HTTPError("http://x", 404, "not found", email.message.Message(), file))
    assert type(found) is urllib.error.HTTPError
    assert (found.code, found.msg, found.url, found.filename) == (404, "not found", "http://x", "http://x")
    assert any("HTTPError.fp was not sent" in note for note in notes(found))
    found.file = io.BytesIO()  # its __del__ asks for one


def test_a_class_that_cannot_be_pickled_is_quoted() -> None:
    error = local_class()("the text")
    add_note(error, "kept")
    found = travelled(error)
    assert type(found) is SerializationError
    assert "Local: the text (only its text was sent: its class cannot be pickled: TypeError" in str(found)
    assert "define local_class.<locals>.Local in a module" in str(found)
    assert notes(found) == ["kept"]
    other = travelled(type("Unsendable", (ValueError,), {"lock": LOCK})("me"))
    assert type(other) is SerializationError
    assert "Unsendable: me" in str(other)
    for text in map(str, (found, other)):
        assert "type tuple" not in text
        assert "_Parts" not in text


def test_a_class_that_the_reader_cannot_import_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("only_there.py").write_text("class There(ValueError): pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        error = importlib.import_module("only_there").There("the text")
        add_note(error, "kept")
        data = pack(Failure(error, "Traceback: there"))
    del sys.modules["only_there"]
    failure = unpack(data)
    assert type(failure.error) is SerializationError
    assert "There: the text" in str(failure.error)
    assert "No module named 'only_there'" in str(failure.error)
    assert notes(failure.error) == ["kept"]
    assert failure.traceback == "Traceback: there"


def test_texts_that_raise() -> None:
    found = travelled(TextRaises(LOCK))
    assert type(found) is TextRaises
    nested = travelled(ValueError(TextRaises(LOCK)))
    assert type(nested.args[0]) is TextRaises
    unsendable = travelled(type("Unsendable", (TextRaises,), {"lock": LOCK})("t"))
    assert "its __str__ raised RuntimeError" in str(unsendable)


@pytest.mark.parametrize("error", [Frozen(1), OddNotes("o"), SetattrRaises("a")], ids=lambda e: type(e).__name__)
def test_any_class_takes_notes(error: BaseException) -> None:
    for note in ("one", "two", "one"):
        add_note(error, note)
    assert notes(travelled(error)) == ["one", "two"]


# ---- groups ----


@needs_groups
def test_the_members_of_a_group_travel_one_by_one() -> None:
    members = [
        KeyError("k"),
        NeedsTwo(1, 2),
        NeedsResponse("n", response=LOCK),
        local_class()("lost"),
        Group("inner", [ReduceRaises("r"), NeedsResponse("i", response=LOCK)]),
    ]
    found = travelled(Group("outer", members))
    assert type(found) is Group
    assert found.message == "outer"
    assert [type(one) for one in found.exceptions] == [KeyError, NeedsTwo, NeedsResponse, SerializationError, Group]
    assert found.args[0] == "outer"
    assert all(one is other for one, other in zip(found.args[1], found.exceptions, strict=True))
    assert (found.exceptions[1].one, found.exceptions[1].two) == (1, 2)
    assert "NeedsResponse.response was not sent" in notes(found.exceptions[2])[0]
    assert "Local: lost" in str(found.exceptions[3])
    inner = found.exceptions[4].exceptions
    assert [type(one) for one in inner] == [ReduceRaises, NeedsResponse]
    assert not notes(found)


@needs_groups
def test_a_group_whose_constructor_takes_something_else() -> None:
    class Several(Group):  # type: ignore[misc]
        def __new__(cls, errors: list[Exception], code: int) -> Any:
            made = super().__new__(cls, f"several, code {code}", errors)
            made.code = code
            return made

    for member in (NeedsTwo(1, 2), NeedsResponse("n", response=LOCK)):
        found = travelled(Several([member], 7))
        assert type(found) is Several
        assert found.message == "several, code 7"
        assert found.code == 7
        assert type(found.exceptions[0]) is type(member)


@needs_groups
def test_members_that_lead_back_to_their_group() -> None:
    for member in (NeedsTwo(1, 2), NeedsResponse("n", response=LOCK)):
        group = Group("g", [member, TypeError()])
        member.group = group  # type: ignore[attr-defined]
        found = travelled(group)
        assert [type(one) for one in found.exceptions] == [type(member), TypeError]


@needs_groups
def test_a_group_of_what_is_no_exception_of_a_program() -> None:
    found = travelled(BaseGroup("b", [KeyboardInterrupt(), NeedsTwo(1, 2)]))
    assert type(found) is BaseGroup
    assert [type(one) for one in found.exceptions] == [KeyboardInterrupt, NeedsTwo]


# ---- the text of a traceback ----


class NotToBeLookedAt(ValueError):
    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


def test_the_failure_of_a_class_that_does_not_let_itself_be_looked_at() -> None:
    try:
        raise NotToBeLookedAt("x")
    except NotToBeLookedAt as caught:
        text = formatted(caught, caught.__traceback__)
        found = unpack(pack_failure(caught, skip=0))
    for shown in (text, found.traceback):
        assert "in test_the_failure_of_a_class" in shown
        assert "NotToBeLookedAt" in shown
    assert type(found.error) is NotToBeLookedAt
    assert found.error.args == ("x",)


def test_a_traceback_is_the_text_that_python_prints() -> None:
    with pytest.raises(NeedsTwo) as caught:
        raise NeedsTwo(1, 2)
    expected = "".join(traceback.format_exception(NeedsTwo, caught.value, caught.value.__traceback__))
    assert formatted(caught.value, caught.value.__traceback__) == expected
