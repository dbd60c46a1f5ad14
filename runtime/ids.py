"""Names of things in the runtime: short, random, and of their own type, so that one is never taken for another."""

from __future__ import annotations

import secrets
from typing import NewType

__all__ = ["ActorId", "NodeId", "new_actor_id"]

ActorId = NewType("ActorId", str)
NodeId = NewType("NodeId", str)


def new_actor_id() -> ActorId:
    return ActorId(secrets.token_hex(6))
