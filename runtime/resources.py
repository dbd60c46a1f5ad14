"""What a machine offers to actors, and who has it. Pure bookkeeping, in numbers; nothing is measured or enforced.

CPUs bound one actor, not their sum: an actor that waits uses none, and a pipeline of eight actors on two cores is a
normal thing. GPUs and custom resources are given away: a GPU that two actors share by mistake runs out of memory.

Workers of tasks are the exception: a task that is started on more processes than there are CPUs gains nothing. All such
workers of a session together have its CPUs, as the resource TASK_CPUS; see runtime/task_queue.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.errors import GraphError

if TYPE_CHECKING:
    from runtime.engine import ActorOptions
    from runtime.ids import ActorId

__all__ = ["TASK_CPUS", "Resources"]

#: The CPUs of all workers of tasks together. Who asks for some of it, be it 0, is such a worker.
TASK_CPUS = "dagc.task_cpus"

#: Fractions of a GPU are sums of floats.
_SLACK = 1e-9


@dataclass
class Resources:
    """The resources of one machine. `gpus` are the indices of its GPUs."""

    num_cpus: float
    gpus: tuple[int, ...] = ()
    custom: Mapping[str, float] = field(default_factory=dict)
    _gpu_use: dict[ActorId, dict[int, float]] = field(default_factory=dict)
    _custom_use: dict[ActorId, Mapping[str, float]] = field(default_factory=dict)

    def take(self, actor: ActorId, label: str, options: ActorOptions) -> tuple[int, ...]:
        """Give an actor what it asks for; returns its GPUs. Raises GraphError, giving nothing, if that is too much."""
        if options.num_cpus > self.num_cpus:
            raise GraphError(
                f"actor {label} asks for num_cpus={options.num_cpus:g}, this session has {self.num_cpus:g}; "
                "ask for fewer, or say init(num_cpus=...)"
            )
        for name, amount in options.resources.items():
            total = self._total(name)
            used = sum(use.get(name, 0) for use in self._custom_use.values())
            if used + amount > total + _SLACK:
                raise GraphError(
                    f"actor {label} asks for {amount:g} of the resource {name!r}, this session has {total:g} and "
                    f"{used:g} of it is taken; say init(resources={{{name!r}: ...}})"
                )
        gpus = self._choose(label, options.num_gpus)
        self._gpu_use[actor] = gpus
        self._custom_use[actor] = dict(options.resources)
        return tuple(gpus)

    def give_back(self, actor: ActorId) -> None:
        """The actor is dead. Giving back twice is allowed."""
        self._gpu_use.pop(actor, None)
        self._custom_use.pop(actor, None)

    def has_gpus(self, amount: float) -> bool:
        """Whether an actor could have this many GPUs now."""
        return len(self._fitting(amount)[0]) >= math.ceil(amount)

    def _total(self, name: str) -> float:
        # One less: a pool's first worker asks for none of it, and with it a session of two CPUs has two workers.
        return max(self.num_cpus - 1, 1) if name == TASK_CPUS else self.custom.get(name, 0)

    def _choose(self, label: str, amount: float) -> dict[int, float]:
        """GPU -> share. A share of one GPU goes to the fullest that has room for it; whole ones are given alone."""
        fitting, free = self._fitting(amount)
        count = math.ceil(amount)
        if len(fitting) < count:
            raise GraphError(
                f"actor {label} asks for num_gpus={amount:g}, this session has {len(self.gpus)} GPUs of which "
                f"{sum(free.values()):g} are free; kill an actor that holds one, or say init(num_gpus=...)"
            )
        return dict.fromkeys(sorted(fitting[:count]), min(amount, 1))

    def _fitting(self, amount: float) -> tuple[list[int], dict[int, float]]:
        """The GPUs with room for a part of `amount`, the fullest first; and what is free of each."""
        free = dict.fromkeys(self.gpus, 1.0)
        for use in self._gpu_use.values():
            for gpu, taken in use.items():
                free[gpu] -= taken
        fitting = [gpu for gpu in self.gpus if free[gpu] + _SLACK >= min(amount, 1)]
        return sorted(fitting, key=lambda gpu: free[gpu]), free
