"""RemoteFunction, which `@remote` makes of a function, and FunctionWorker, the actor that runs such functions.

@dagc.remote                       or  @dagc.remote(num_returns=2, num_gpus=1)
def square(x): ...

square.remote(3)                   an ObjectRef at once; a worker process runs it (runtime/tasks.py)
square.bind(x)                     a call in a DAG; where it runs is the compiler's choice
square.options(num_gpus=1)         the same function with other options
square.__wrapped__(3)              the function itself, here

A function is captured when it is first sent: what it uses of `__main__` or of the function around it is copied then.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from channels.errors import SerializationError
from channels.serialize import pack
from runtime import current
from runtime.calls import BoundCall, MethodInfo, bound, check_arguments, signature_of
from runtime.decorated import Decorated, travelling
from runtime.engine import ActorOptions
from runtime.errors import GraphError, WrongArgumentsError
from runtime.misnamed import misnamed
from runtime.options import FunctionOptions, checked
from runtime.outcomes import open_value
from runtime.resources import TASK_CPUS

if TYPE_CHECKING:
    from runtime.refs import ObjectRef

__all__ = ["FunctionWorker", "RemoteFunction"]

#: Functions that came by value and are kept by a process that runs them. Larger ones are opened anew for each call.
_KEPT = 128
_MAX_KEPT_BYTES = 2**20


class RemoteFunction(Decorated):
    """What `@remote` makes of a function. The function itself is `__wrapped__`."""

    _options: FunctionOptions

    def __init__(self, function: Callable[..., Any], options: FunctionOptions) -> None:
        super().__init__(function, options)
        generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self._info = MethodInfo(self.__name__, signature_of(function), options.num_returns, generator)
        self._packed: bytes | None = None

    @property
    def label(self) -> str:
        """What errors call it: the name that it was given, or its own."""
        return self._options.name or self.__name__

    @property
    def actor_options(self) -> ActorOptions:
        """Of a worker that runs it. The worker has no name of its own: there may be many."""
        said = self._options
        return ActorOptions(
            num_cpus=1 if said.num_cpus is None else said.num_cpus,
            num_gpus=said.num_gpus or 0,
            resources=said.resources or {},
            runtime_env=said.runtime_env or {},
        )

    @property
    def worker_options(self) -> ActorOptions:
        """Of a worker that belongs to whoever starts it, and ends with that process."""
        options = self.actor_options
        return replace(options, resources={**options.resources, TASK_CPUS: 0})

    @property
    def asks_for_resources(self) -> bool:
        """Whether num_cpus, num_gpus, resources or runtime_env was said of it."""
        said = self._options
        return any(what is not None for what in (said.num_cpus, said.num_gpus, said.resources, said.runtime_env))

    def remote(self, /, *args: Any, **kwargs: Any) -> ObjectRef | list[ObjectRef]:
        """Run it in a worker. Returns an ObjectRef at once, or with num_returns=k a list of k of them.

        An argument that is an ObjectRef is replaced by its value. Raises WrongArgumentsError if the arguments do not
        fit the signature, GraphError if one of them is a DagNode or the function is a generator. What the session
        cannot give to it is a GraphError of the refs.
        """
        call = self._call(args, kwargs)  # what is wrong with it is said before an engine is started
        return current.engine().submit(call)

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """Record the call for a DAG. Returns a BoundCall, or with num_returns=k a tuple of k BoundReturns.

        Raises WrongArgumentsError if the arguments do not fit the signature, GraphError if it is a generator.
        """
        return bound(self._call(args, kwargs))

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options; what is not named stays as it was."""
        return RemoteFunction(self.__wrapped__, checked(self._options, options))

    def checked_result(self, result: Any) -> Any:
        """What the function returned, if it may be the result of a call. Raises GraphError otherwise."""
        expected = self._options.num_returns
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise GraphError(_no_generator(f"{self.label} returned a generator"))
        if expected == 1 or (isinstance(result, (tuple, list)) and len(result) == expected):
            return result
        found = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
        raise GraphError(f"{self.label} returned {found}; num_returns={expected} expects a tuple or list of as many")

    if not TYPE_CHECKING:  # a type checker must go on to find what is misspelt

        def __getattr__(self, name: str) -> Any:
            raise misnamed(f"the remote function {self.__name__}", name, ("bind", "remote", "options"))

    def __call__(self, *_: Any, **__: Any) -> Any:
        name = self.__name__
        raise WrongArgumentsError(
            f"{name}(...) cannot be called directly; write {name}.remote(...) or {name}.bind(...), "
            f"or {name}.__wrapped__(...) to call it here"
        )

    def __reduce__(self) -> Any:
        if _packing.underway or travelling(self.__wrapped__) is self:
            # Functions of `__main__` use each other, and themselves: one pickler has to see them all.
            return super().__reduce__()
        # Packed once, sent with each call, opened once by each process: 9 us a call for a small function of `__main__`,
        # where packing and opening it anew took 194 us (2 cores, Python 3.11). Sending it only with a worker's first
        # call would save one more, for its 850 bytes, and both sides would have to agree on what may be forgotten.
        if self._packed is None:
            self._packed = _pack(self)
        return _open, (self._packed,)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall:
        if self._info.generator:
            raise GraphError(_no_generator(f"{self.label} is a generator"))
        check_arguments(self.__name__, self._info.signature, args, kwargs)
        return BoundCall(None, self._info, args, kwargs, function=self)


class FunctionWorker:
    """The actor that runs functions: `call(function, *args, **kwargs)` is `function(*args, **kwargs)` there."""

    def call(self, function: RemoteFunction, /, *args: Any, **kwargs: Any) -> Any:
        """What the function returns; of an async function a coroutine, which the actor's host runs to its end.

        Raises what the function raises, and GraphError for a generator or a wrong number of values.
        """
        result = function.__wrapped__(*args, **kwargs)
        return _to_the_end(function, result) if inspect.iscoroutine(result) else function.checked_result(result)


async def _to_the_end(function: RemoteFunction, coroutine: Any) -> Any:
    return function.checked_result(await coroutine)


def _no_generator(what: str) -> str:
    return f"{what}; a function returns its values at once: return a list"


class _Packing(threading.local):
    """Whether this thread is in the middle of packing a function."""

    underway = False


_packing = _Packing()


def _pack(function: RemoteFunction) -> bytes:
    _packing.underway = True
    try:
        return pack(function)
    except SerializationError as error:
        raise SerializationError(f"the function {function.label} cannot be sent: {error}") from error
    finally:
        _packing.underway = False


def _open(packed: bytes) -> RemoteFunction:
    return _open_once(packed) if len(packed) <= _MAX_KEPT_BYTES else _open_now(packed)


def _open_now(packed: bytes) -> RemoteFunction:
    function: RemoteFunction = open_value(packed)
    return function


_open_once = functools.lru_cache(_KEPT)(_open_now)
