"""DeathWatch: a subscription to deaths, as every engine gives it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.errors import ActorDiedError
    from runtime.ids import ActorId

__all__ = ["DeathWatch"]


class DeathWatch:
    """See runtime.engine.Watch. A callback may cancel its own watch."""

    def __init__(self, on_death: Callable[[ActorId, ActorDiedError], None]) -> None:
        self._on_death = on_death
        self._lock = threading.RLock()  # held while a callback runs: cancel waits for it; reentrant for the callback
        self._told: set[ActorId] = set()
        self._cancelled = False
        self._unsubscribe: list[Callable[[], None]] = []

    def on_cancel(self, unsubscribe: Callable[[], None]) -> None:
        """For the engine: what makes it forget this watch. Called once, by `cancel`."""
        self._unsubscribe.append(unsubscribe)

    def tell(self, actor: ActorId, death: ActorDiedError) -> None:
        """The engine has heard of a death. Each is passed on once."""
        with self._lock:
            if not self._cancelled and actor not in self._told:
                self._told.add(actor)
                self._on_death(actor, death)

    def cancel(self) -> None:
        """No callback runs once this returns, nor ever will."""
        with self._lock:
            self._cancelled = True
            forget, self._unsubscribe = self._unsubscribe, []
        for unsubscribe in forget:
            unsubscribe()
