"""A call recorded, not made. The same record drives `.remote()`, which hands it to the engine now, and `.bind()`,
which leaves it in a DAG for the compiler: one signature check, one meaning of the arguments.

    handle.method            ActorMethod     checks the name
    .bind(*args, **kwargs)   BoundCall       checks the arguments; a tuple of BoundReturn if num_returns > 1
    .remote(*args, **kwargs) ObjectRef       engine.submit(BoundCall)

A function that is remote (runtime/functions.py) makes the same record, without a handle.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from channels.communicators import TensorSpec, Transport
from runtime import current
from runtime.errors import GraphError, NoSuchMethodError, WrongArgumentsError
from runtime.misnamed import misnamed
from runtime.tensor_transport import TensorTransport

if TYPE_CHECKING:
    from typing_extensions import Self

    from runtime.ids import ActorId
    from runtime.refs import ObjectRef

__all__ = [
    "ActorHandle",
    "ActorMethod",
    "BoundCall",
    "BoundReturn",
    "DagNode",
    "MethodInfo",
    "bound",
    "check_arguments",
    "checked_num_returns",
    "method",
    "methods_of",
    "next_order",
    "recorded_calls",
    "signature_of",
]

F = TypeVar("F", bound=Callable[..., Any])
#: Where the calls that are bound now are recorded: the list of the innermost `with InputNode()`.
recorded_calls: ContextVar[list[BoundCall] | None] = ContextVar("recorded_calls", default=None)
#: What to write for what a node of a DAG has on Ray.
_INSTEAD: Mapping[str, str] = {
    "execute": "write graph = dagc.compile(node), then graph.execute(...); or dagc.run(node, ...) without compiling",
    "experimental_compile": "write dagc.compile(node)",
}
#: Operators that a value may have, by the names of their special methods.
_BINARY: Mapping[str, str] = {
    "add": "+", "sub": "-", "mul": "*", "matmul": "@", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>",
}  # fmt: skip
_OPERATORS: Mapping[str, str] = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in _BINARY.items()},
    **{f"r{name}": f"{{1}} {sign} {{0}}" for name, sign in _BINARY.items()},
    **{name: f"{{0}} {sign} {{1}}" for name, sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items()},
    "neg": "-{0}", "pos": "+{0}", "invert": "~{0}", "abs": "abs({0})",
}  # fmt: skip
#: Grows from one thing that is bound to the next.
next_order = itertools.count().__next__


class DagNode:
    """A value that a compiled graph will have: what `bind` returns and what it takes as an argument.

    It is only a record. Nothing about it changes when it is compiled or run, so it may be used many times.
    """

    __slots__ = ()

    #: What `with_tensor_transport` said last, in a list so that a frozen record can keep it; None: no value of a call.
    _transport: list[TensorTransport] | None = None

    def with_tensor_transport(
        self,
        transport: str | Transport = "auto",
        device: str = "default",
        spec: TensorSpec | None = None,
        **unknown: NoReturn,
    ) -> Self:
        """Say how the tensors in this value travel to other actors, at any depth of it; returns self.

        Of what is made of tensors, as a Parameter or a sparse one, the parts travel so.

        transport: "shm", "nccl", "gloo", a Transport, or "auto": by NCCL where the writer and the reader have GPUs of
        their own, through shared memory otherwise. What goes to or from the compiling process goes through shared
        memory in any case, for `execute` may not wait for a reader; within an actor a value goes by reference.

        device: where tensors are at the reader. "cpu"; "cuda": on the current device there; "default": where they were
        if the reader has such a device, else on the CPU.

        spec: the value is one tensor of this shape and dtype in every execution. Then nothing is said of it beside the
        tensor itself, it is received into memory that is there already, and the receive may begin before the tensor
        is made. A value of another shape or dtype raises MismatchError in its execution.

        What is said last holds. `dagc.run`, which does not compile, moves every value in its own way.

        Raises GraphError for what makes no sense, WrongArgumentsError for an option that there is not.
        """
        if unknown:
            raise WrongArgumentsError(
                f"with_tensor_transport has no option {next(iter(unknown))!r}; its options are: transport, device, "
                "spec; for one tensor of one shape and dtype each time write spec=dagc.TensorSpec(shape, dtype)"
            )
        if self._transport is None:
            raise GraphError(f"{self!r}.with_tensor_transport(...): say it of each of the nodes in it")
        self._transport[:] = [TensorTransport(transport, device, spec)]
        return self

    if not TYPE_CHECKING:  # a type checker must go on to find what is misspelt

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # the fields may not be there yet
                raise AttributeError(name)
            known = [known for known in dir(type(self)) if not known.startswith("_")]
            raise misnamed(f"{self!r}, a node of a DAG,", name, known, _INSTEAD)

    def __iter__(self) -> Any:
        raise GraphError(
            f"{self!r} is one value of a DAG and cannot be unpacked here; bind a method with num_returns=k"
        )

    def __getitem__(self, key: Any) -> Any:
        raise GraphError(
            f"{self!r}[{key!r}]: {self!r} is a value of a DAG that is not known yet; bind a method with num_returns=k, "
            "or take the part inside the method that is given it"
        )

    def __bool__(self) -> bool:
        raise GraphError(f"{self!r} is a value of a DAG that is not known yet; decide inside a method, not at bind")

    def __reduce__(self) -> Any:
        raise GraphError(f"{self!r} is a value of a DAG and cannot be pickled; compile the DAG where it was bound")


def _refused_operator(shown: str) -> Callable[..., Any]:
    def refuse(node: DagNode, *others: Any) -> Any:
        found = shown.format(repr(node), *map(repr, others))
        raise GraphError(
            f"{found}: {node!r} is a value of a DAG that is not known yet; compute with it in a method, or in a "
            "function that is bound, as dagc.remote(lambda value: ...).bind(node)"
        )

    return refuse


for _name, _shown in _OPERATORS.items():
    setattr(DagNode, f"__{_name}__", _refused_operator(_shown))


@dataclass(frozen=True)
class MethodInfo:
    """What a handle knows of a method, without the class."""

    name: str
    signature: inspect.Signature
    num_returns: int = 1
    #: A generator, plain or async: its values come one at a time, which a compiled graph does not know.
    generator: bool = False


@dataclass(frozen=True)
class ActorHandle:
    """A reference to an actor. Picklable: actors may hold handles of actors.

    Its methods are its attributes: `handle.method.remote(...)`, `handle.method.bind(...)`. Every other name that it
    has begins with an underscore or is listed here, so that the user's methods win.
    """

    _actor_id: ActorId
    #: The name of its class, or the name it was given.
    _label: str
    _methods: Mapping[str, MethodInfo] = field(repr=False, hash=False, compare=False)
    #: Where its engine finds it; the engine's own business, picklable.
    _address: Any = field(repr=False, hash=False, compare=False, default=None)
    #: True if the label is a name that its user gave it: then it is unique among the living actors of a session.
    _named: bool = field(repr=False, hash=False, compare=False, default=False)

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("__"):  # pickle and copy look for special methods before the fields are there
            raise AttributeError(name)
        info = self._methods.get(name)
        if info is None:
            known = ", ".join(sorted(self._methods)) or "none"
            raise NoSuchMethodError(f"actor {self._label} has no method {name!r}; its methods are: {known}")
        return ActorMethod(self, info)

    def __repr__(self) -> str:
        return f"{self._label}({self._actor_id})"


class _Result(DagNode):
    """What `after` means, for a call and for one of its values."""

    __slots__ = ()

    def after(self, *others: DagNode) -> Any:
        """Make this call only when those of `others` have been made; returns self. For an order without data.

        It belongs to the call: also bound elsewhere, it keeps to it. If one of the others raises, this call is not
        made and has its exception, as if it had been an argument. Raises GraphError for what is no call.
        """
        call = self.call if isinstance(self, BoundReturn) else self
        assert isinstance(call, BoundCall)
        for other in others:
            found = other.call if isinstance(other, BoundReturn) else other
            if not isinstance(found, BoundCall):
                raise GraphError(f"{self!r}.after({other!r}); expected calls, as what handle.method.bind(...) returns")
            if found is call:
                raise GraphError(f"{self!r}.after({other!r}): a call cannot come after itself")
            call._after.append(found)
        return self


@dataclass(frozen=True, eq=False)
class BoundCall(_Result):
    """`handle.method(*args, **kwargs)`, recorded. Arguments may be DagNodes, also inside lists, tuples and dicts."""

    #: None: the call of a function, whose place the compiler or the engine chooses.
    handle: ActorHandle | None
    method: MethodInfo
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    #: Of the call of a function: the RemoteFunction.
    function: Any = None
    #: Grows from call to call: an actor makes its calls in the order in which they were recorded.
    order: int = field(default_factory=next_order, repr=False)
    _after: list[BoundCall] = field(default_factory=list, repr=False)
    _transport: list[TensorTransport] = field(default_factory=list, repr=False)
    #: All calls that were bound in the same `with InputNode()`, this one included; None outside of any.
    scope: list[BoundCall] | None = field(default_factory=recorded_calls.get, repr=False)

    def __repr__(self) -> str:
        return f"{'' if self.handle is None else f'{self.handle._label}.'}{self.method.name}.bind(...)"


@dataclass(frozen=True, eq=False)
class BoundReturn(_Result):
    """One of the values of a call that returns several."""

    call: BoundCall
    index: int
    _transport: list[TensorTransport] = field(default_factory=list, repr=False)

    def __repr__(self) -> str:
        return f"{self.call!r}[{self.index}]"


def bound(call: BoundCall) -> Any:
    """What `bind` returns for a call: itself, or with num_returns=k a tuple of its k values."""
    if call.scope is not None:
        call.scope.append(call)
    if call.method.num_returns == 1:
        return call
    return tuple(BoundReturn(call, i) for i in range(call.method.num_returns))


def check_arguments(name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise WrongArgumentsError if the arguments do not fit the signature of what is called `name`."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise WrongArgumentsError(f"{name}: {error}; its signature is {name}{signature}") from None


@dataclass(frozen=True)
class ActorMethod:
    """`handle.method`: bind it, or call it now."""

    _handle: ActorHandle
    _info: MethodInfo

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """Record the call for a DAG. Returns a BoundCall, or with num_returns=k a tuple of k BoundReturns.

        Raises WrongArgumentsError if the arguments do not fit the method's signature.
        """
        return bound(self._call(args, kwargs))

    def remote(self, /, *args: Any, **kwargs: Any) -> ObjectRef | list[ObjectRef]:
        """Call it now. Returns an ObjectRef at once, or with num_returns=k a list of k of them.

        An argument that is an ObjectRef is replaced by its value. Raises WrongArgumentsError if the arguments do not
        fit the method's signature, GraphError if one of them is a DagNode.
        """
        return current.engine().submit(self._call(args, kwargs))

    def options(self, *, num_returns: int) -> ActorMethod:
        """The same method, taken to return `num_returns` values."""
        return ActorMethod(self._handle, replace(self._info, num_returns=checked_num_returns(num_returns)))

    if not TYPE_CHECKING:  # a type checker must go on to find what is misspelt

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # pickle and copy look for special methods before the fields are there
                raise AttributeError(name)
            raise misnamed(f"{self._handle._label}.{self._info.name}", name, ("bind", "remote", "options"))

    def __call__(self, *_: Any, **__: Any) -> Any:
        name = f"{self._handle._label}.{self._info.name}"
        raise WrongArgumentsError(
            f"{name}(...) cannot be called directly; write {name}.remote(...) or {name}.bind(...)"
        )

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall:
        check_arguments(f"{self._handle._label}.{self._info.name}", self._info.signature, args, kwargs)
        return BoundCall(self._handle, self._info, args, kwargs)


def method(*, num_returns: int = 1) -> Callable[[F], F]:
    """Decorator for a method of an actor class: `@dagc.method(num_returns=2)`."""

    def mark(function: F) -> F:
        function.__dagc_num_returns__ = checked_num_returns(num_returns)  # type: ignore[attr-defined]
        return function

    return mark


def methods_of(cls: type) -> dict[str, MethodInfo]:
    """The methods that a handle of `cls` offers: every public one and `__call__`, without `self`."""
    found: dict[str, MethodInfo] = {}
    for name in dir(cls):
        if name.startswith("_") and name != "__call__":
            continue
        function = inspect.getattr_static(cls, name)
        bound = isinstance(function, (staticmethod, classmethod))
        function = getattr(cls, name, None)  # a descriptor may refuse to be looked at on the class
        if not callable(function) or isinstance(function, type):
            continue
        generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        signature = signature_of(function, skip_first=not bound)
        found[name] = MethodInfo(name, signature, getattr(function, "__dagc_num_returns__", 1), generator)
    return found


def signature_of(function: Callable[..., Any], *, skip_first: bool = False) -> inspect.Signature:
    """The signature to check arguments with: without annotations and the objects that are defaults, which are the
    user's own, so that it can be pickled without them. `skip_first`: without the `self` of a method."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a C function without a text signature takes what it likes
        either = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        return inspect.Signature([inspect.Parameter(n, k) for n, k in zip(("args", "kwargs"), either, strict=True)])
    parameters = list(signature.parameters.values())
    if skip_first and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        parameters = parameters[1:]
    return inspect.Signature([_bare(parameter) for parameter in parameters])


class _Default:
    """Stands for a default value in a handle's signature: shown as `...`, never passed on."""

    def __repr__(self) -> str:
        return "..."


_DEFAULT = _Default()
#: Exactly these: an enum that is also an int is of the user's class.
_PLAIN = (int, float, str, bool, type(None))


def _bare(parameter: inspect.Parameter) -> inspect.Parameter:
    has_default = parameter.default is not inspect.Parameter.empty
    default: Any = parameter.default if type(parameter.default) in _PLAIN else _DEFAULT
    return parameter.replace(
        annotation=inspect.Parameter.empty, default=default if has_default else inspect.Parameter.empty
    )


def checked_num_returns(num_returns: int) -> int:
    if not isinstance(num_returns, int) or isinstance(num_returns, bool) or num_returns < 1:
        raise GraphError(f"num_returns={num_returns!r}; expected a whole number of at least 1")
    return num_returns
