"""`@remote`: a class whose instances are actors, or a function that runs elsewhere (runtime/functions.py).

@dagc.remote                       or  @dagc.remote(num_gpus=1, name="embedder")
class Stage: ...

Stage.remote(0)                    an ActorHandle at once; the actor starts meanwhile
Stage.options(num_gpus=2).remote(0)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from runtime import current
from runtime.decorated import Decorated
from runtime.engine import ActorOptions
from runtime.errors import GraphError, WrongArgumentsError
from runtime.functions import RemoteFunction
from runtime.misnamed import misnamed
from runtime.options import FunctionOptions, checked, checked_before_the_target

if TYPE_CHECKING:
    from runtime.calls import ActorHandle

__all__ = ["ActorClass", "remote"]


class ActorClass(Decorated):
    """What `@remote` makes of a class. The class itself is `__wrapped__`, for tests and for inheritance."""

    _options: ActorOptions

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle:
        """Start an actor: `cls(*args, **kwargs)` somewhere else. Returns at once.

        An argument that is an ObjectRef is replaced by its value. Raises WrongArgumentsError if the arguments do not
        fit the constructor, GraphError if the name is taken or the options cannot be met.
        """
        cls = self.__wrapped__
        try:
            _constructor_signature(cls).bind(*args, **kwargs)
        except TypeError as error:
            signature = _constructor_signature(cls)
            raise WrongArgumentsError(f"{self.__name__}.remote: {error}; its signature is {signature}") from None
        return current.engine().create_actor(cls, args, kwargs, self._options)

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options; what is not named stays as it was."""
        return ActorClass(self.__wrapped__, checked(self._options, options))

    if not TYPE_CHECKING:  # a type checker must go on to find what is misspelt

        def __getattr__(self, name: str) -> Any:
            made = f"actor = {self.__name__}.remote(...)"
            instead = {"bind": f"make an actor, {made}, and bind its methods"}
            if not name.startswith("_") and hasattr(self.__wrapped__, name):
                instead[name] = (
                    f"its actors have: write {made}, then actor.{name}; or {self.__name__}.__wrapped__.{name}"
                )
            raise misnamed(f"the actor class {self.__name__}", name, ("remote", "options"), instead)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise GraphError(
            f"{self.__name__} is an actor class; write {self.__name__}.remote(...) instead of {self.__name__}(...)"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise GraphError(
            f"{self.__name__} is an actor class and cannot be a base; inherit from the plain class and decorate that"
        )


@overload
def remote(target: type, /) -> ActorClass: ...  # type: ignore[overload-overlap] # a class is callable, too
@overload
def remote(target: Callable[..., Any], /) -> RemoteFunction: ...
@overload
def remote(**options: Any) -> Callable[[Any], Any]: ...
def remote(*targets: Any, **options: Any) -> Any:
    """Decorator of a class or a function: `@remote`, or `@remote(...)` with options.

    Of both: num_cpus=, num_gpus=, resources=, name=, runtime_env=; of a class also max_concurrency=, of a function also
    num_returns=. Raises GraphError for what is neither a class nor a function written in Python, and for an option that
    does not exist or has a wrong value.
    """
    checked_before_the_target(options)

    def decorate(target: Any) -> Decorated:
        if isinstance(target, type):
            return ActorClass(target, checked(ActorOptions(), options))
        if inspect.isfunction(target):
            return RemoteFunction(target, checked(FunctionOptions(), options))
        raise GraphError(f"@remote on {target!r}: {_advice(target)}")

    if len(targets) > 1:
        raise GraphError(f"@remote takes one class or function, found {len(targets)}; options are keywords")
    return decorate(*targets) if targets else decorate


def _advice(target: Any) -> str:
    """What to write in place of what is neither a class nor a function."""
    if isinstance(target, Decorated):
        return "it is remote already; write .options(...) to change its options"
    if isinstance(target, (staticmethod, classmethod)):
        return "a method cannot be remote alone; make its class remote, or write a function"
    if inspect.ismethod(target):
        return "a method cannot be remote without its object; make its class remote, or write a function that calls it"
    if callable(target):
        return "expected a class or a function written in Python; write remote(lambda ...: ...) with a call of it"
    return "expected a class or a function"


def _constructor_signature(cls: type) -> inspect.Signature:
    try:
        return inspect.signature(cls)
    except ValueError:  # a C class without a text signature takes what it likes
        either = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        return inspect.Signature(
            [inspect.Parameter(name, kind) for name, kind in zip(("args", "kwargs"), either, strict=True)]
        )
