"""`@remote`: a class whose instances are actors.

@dagc.remote                       or  @dagc.remote(num_gpus=1, name="embedder")
class Stage: ...

Stage.remote(0)                    an ActorHandle at once; the actor starts meanwhile
Stage.options(num_gpus=2).remote(0)
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from runtime import current
from runtime.engine import ActorOptions
from runtime.errors import GraphError, WrongArgumentsError

if TYPE_CHECKING:
    from runtime.calls import ActorHandle

__all__ = ["ActorClass", "remote", "travelling"]

T = TypeVar("T", bound=type)


class ActorClass:
    """What `@remote` makes of a class. The class itself is `__wrapped__`, for tests and for inheritance."""

    def __init__(self, cls: type, options: ActorOptions) -> None:
        self.__wrapped__ = cls
        self._options = options
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
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
        return ActorClass(self.__wrapped__, _checked(self._options, options))

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise GraphError(
            f"{self.__name__} is an actor class; write {self.__name__}.remote(...) instead of {self.__name__}(...)"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise GraphError(
            f"{self.__name__} is an actor class and cannot be a base; inherit from the plain class and decorate that"
        )

    def __reduce__(self) -> Any:
        if travelling(self.__wrapped__) is self:
            return self.__qualname__  # pickle's way of saying: by name
        return ActorClass, (self.__wrapped__, self._options)

    def __repr__(self) -> str:
        return f"ActorClass({self.__qualname__})"


@overload
def remote(target: type, /) -> ActorClass: ...
@overload
def remote(**options: Any) -> Callable[[type], ActorClass]: ...
def remote(target: Any = None, /, **options: Any) -> Any:
    """Decorator: `@remote` or `@remote(num_cpus=, num_gpus=, resources=, name=, max_concurrency=, runtime_env=)`.

    Raises GraphError for what is not a class, and for an option that does not exist or has a wrong value.
    """
    checked = _checked(ActorOptions(), options)

    def decorate(cls: Any) -> ActorClass:
        if not isinstance(cls, type):
            raise GraphError(
                f"@remote on {cls!r}: only classes can be remote in this version; make it a method of a class"
            )
        return ActorClass(cls, checked)

    return decorate if target is None else decorate(target)


def travelling(cls: type) -> type | ActorClass:
    """What to pickle in place of `cls`: the ActorClass that stands under its name, if there is one, else itself.

    Pickle cannot find a decorated class under its own name any more, and would send it by value, with a copy of all
    that its methods use of their module. `__main__` is another module elsewhere, so what is in it does go by value.
    """
    found: Any = sys.modules.get(cls.__module__) if cls.__module__ != "__main__" else None
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, ActorClass) and found.__wrapped__ is cls else cls


def _constructor_signature(cls: type) -> inspect.Signature:
    try:
        return inspect.signature(cls)
    except ValueError:  # a C class without a text signature takes what it likes
        either = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        return inspect.Signature(
            [inspect.Parameter(name, kind) for name, kind in zip(("args", "kwargs"), either, strict=True)]
        )


def _checked(base: ActorOptions, options: Mapping[str, Any]) -> ActorOptions:
    known = [field.name for field in fields(ActorOptions)]
    for name, value in options.items():
        if name not in known:
            raise GraphError(f"unknown actor option {name!r}; the options are: {', '.join(known)}")
        expected = _CHECKS[name](value)
        if expected:
            raise GraphError(f"{name}={value!r}; expected {expected} (the options are: {', '.join(known)})")
    return replace(base, **options)


def _amount(value: Any) -> str:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return "" if good else "a number of at least 0"


def _gpus(value: Any) -> str:
    good = not _amount(value) and (value <= 1 or value == int(value))
    return "" if good else "a whole number, or a share of one GPU between 0 and 1"


def _resources(value: Any) -> str:
    good = isinstance(value, Mapping) and all(isinstance(k, str) and not _amount(v) for k, v in value.items())
    return "" if good else "a dict of names and numbers of at least 0"


def _name(value: Any) -> str:
    return "" if value is None or (isinstance(value, str) and value) else "a string that is not empty, or None"


def _concurrency(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return "" if good else "a whole number of at least 1"


def _runtime_env(value: Any) -> str:
    good = isinstance(value, Mapping) and set(value) <= {"env_vars"}
    if good:
        variables = value.get("env_vars", {})
        good = isinstance(variables, Mapping) and all(
            isinstance(part, str) and "\0" not in part for item in variables.items() for part in item
        )
    return "" if good else 'a dict {"env_vars": {name: value}} of strings'


#: Each says what was expected, or nothing if the value is good.
_CHECKS: Mapping[str, Callable[[Any], str]] = {
    "name": _name,
    "num_cpus": _amount,
    "num_gpus": _gpus,
    "resources": _resources,
    "max_concurrency": _concurrency,
    "runtime_env": _runtime_env,
}
