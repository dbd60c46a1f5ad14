"""The checks of where results come from and go to. `channels.testing_communicators` runs them."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator

import numpy as np

from channels.communicators.base import Communicator
from channels.communicators.tensors import ReduceOp, TensorSpec
from channels.testing_group_subject import Subject, caught
from channels.testing_reductions import Array, agrees, has_torch, made, ranks_of, reduced


def results_go_where_they_should(subject: Subject) -> None:
    for world_size in subject.world_sizes[:2]:
        subject.run(world_size, _results_in_place)


def _results_in_place(communicator: Communicator) -> None:
    n, rank = communicator.world_size, communicator.rank
    for size in (6, 3000, 60_000):
        arrays = [made("float32", n * size, r) for r in range(n)]
        total = reduced(ReduceOp.SUM, "float32", arrays)
        part = slice(rank * size, (rank + 1) * size)

        out, mine = np.empty(n * size, np.float32), arrays[rank].copy()
        assert communicator.allreduce(mine, out=out) is out
        agrees(communicator, "float32", out, total, "into out")
        assert communicator.allreduce(mine, out=mine) is mine
        agrees(communicator, "float32", mine, total, "in place")

        mine = arrays[rank].copy()
        assert communicator.reducescatter(mine, out=mine[part]) is not None
        agrees(communicator, "float32", mine[part], total[part], "reducescatter in place")

        all_of_them = np.empty(n * size, np.float32)
        all_of_them[part] = arrays[rank][:size]
        communicator.allgather(all_of_them[part], out=all_of_them)
        agrees(communicator, "float32", all_of_them, np.concatenate([a[:size] for a in arrays]), "allgather in place")

        whole = np.zeros(n * size + 1, np.float32)
        caught(ValueError, lambda: communicator.allreduce(whole[:-1], out=whole[1:]))  # noqa: B023 - called at once
    scalar = communicator.allgather(np.array(rank, np.int64))
    assert scalar.tolist() == list(range(n))
    assert communicator.allreduce(np.array(rank, np.int64), "max").shape == ()
    shaped = communicator.allgather(np.full((2, 3), rank, np.int32))
    assert shaped.shape == (2 * n, 3)
    assert communicator.reducescatter(shaped).tolist() == [[n * rank] * 3] * 2
    assert communicator.allreduce(np.empty((0, 5), np.float64)).shape == (0, 5)


def any_strides_are_read_and_only_contiguous_tensors_written(subject: Subject) -> None:
    subject.run(2, _strides)


def _strides(communicator: Communicator) -> None:
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    odd = np.frombuffer(b"x" + grid.tobytes(), np.float32, offset=1)
    for view in (grid.T, grid[:, ::2], grid[::-1], np.broadcast_to(grid[0], (3, 6)), np.asfortranarray(grid)):
        assert np.array_equal(communicator.allreduce(view), 2 * view)
    assert np.array_equal(communicator.allreduce(odd), 2 * grid.ravel())
    received: Array = np.empty((6, 4), np.float32)
    if communicator.rank == 0:
        communicator.send(grid.T, 1)
    else:
        assert np.array_equal(communicator.recv(received, 0), grid.T)
    read_only = np.zeros((4, 6), np.float32)
    read_only.flags.writeable = False
    for out in (np.empty((6, 4), np.float32).T, read_only):
        assert "contiguous" in caught(ValueError, lambda: communicator.allreduce(grid, out=out))  # noqa: B023
    if has_torch():
        torch = importlib.import_module("torch")
        tensor = torch.from_numpy(grid.copy())
        assert torch.equal(communicator.allreduce(tensor.t()), 2 * tensor.t())
        assert "contiguous" in caught(ValueError, lambda: communicator.allreduce(tensor, out=torch.empty(6, 4).t()))


def results_are_of_the_library_of_the_argument(subject: Subject) -> None:
    if has_torch():
        subject.run(2, _libraries)


def _libraries(communicator: Communicator) -> None:
    torch = importlib.import_module("torch")
    tensor = torch.full((2, 2), communicator.rank + 1.0, requires_grad=True)
    total = communicator.allreduce(tensor)
    assert type(total) is torch.Tensor
    assert not total.requires_grad
    assert total.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert communicator.allgather(torch.tensor([communicator.rank])).tolist() == [0, 1]
    assert communicator.reducescatter(torch.ones(4, dtype=torch.int32)).dtype == torch.int32
    assert communicator.allreduce(torch.empty(0, 3)).shape == (0, 3)
    spec = TensorSpec((3,), "bfloat16", "torch")
    if communicator.rank == 0:
        communicator.send(torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16), 1)
        root = torch.arange(5)
        assert communicator.broadcast(root, 0) is root
    else:
        assert torch.equal(communicator.recv(spec, 0), torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16))
        assert communicator.broadcast(TensorSpec((5,), "int64", "torch"), 0).tolist() == [0, 1, 2, 3, 4]
    out = np.empty((2, 2), np.float32)
    assert communicator.allreduce(tensor, out=out) is out
    assert out.tolist() == [[3.0, 3.0], [3.0, 3.0]]


# ---- broadcast, send, recv ----


def a_broadcast_comes_from_every_root(subject: Subject) -> None:
    for world_size in subject.world_sizes[:2]:
        subject.run(world_size, _broadcasts)


def _broadcasts(communicator: Communicator) -> None:
    for root in ranks_of(communicator):
        for size in (0, 1, 100, 10_000, 200_000):
            array = made("int64", size, root)
            given = array.copy() if communicator.rank == root else TensorSpec((size,), "int64")
            assert np.array_equal(communicator.broadcast(given, root), array)
            given = array.copy() if communicator.rank == root else np.empty(size, np.int64)
            assert communicator.broadcast(given, root) is given
            assert np.array_equal(given, array)


def tensors_are_sent_in_order_between_every_pair(subject: Subject) -> None:
    for world_size in subject.world_sizes[:2]:
        subject.run(world_size, _sends)


def _sends(communicator: Communicator) -> None:
    for size in (0, 1, 5, 1000, 100_001):
        for source in ranks_of(communicator):
            for target in ranks_of(communicator):
                for number in range(3) if source != target else ():
                    array = made("float64", size, source, seed=number)
                    if communicator.rank == source:
                        communicator.send(array, target)
                        array[...] = 0  # the receiver has it
                    elif communicator.rank == target:
                        assert np.array_equal(communicator.recv(TensorSpec((size,), "float64"), source), array)
    into = np.empty((2, 3), np.int32)
    if communicator.rank == 0:
        communicator.send(np.arange(6, dtype=np.int32).reshape(2, 3), 1)
    elif communicator.rank == 1:
        assert communicator.recv(into, 0) is into
        assert into.tolist() == [[0, 1, 2], [3, 4, 5]]


def several_tensors_move_as_one(subject: Subject) -> None:
    for world_size in subject.world_sizes[:2]:
        subject.run(world_size, _moved_as_one)


def _moved_as_one(communicator: Communicator) -> None:
    """From every rank to all others: two sets, both on their way before one is waited for; some into given tensors."""
    n, rank = communicator.world_size, communicator.rank
    for source in ranks_of(communicator):
        sets = [_several(source, seed) for seed in range(2)]
        if rank == source:
            others = [peer for peer in range(n) if peer != rank]
            works = [communicator.isend(arrays, others) for arrays in sets]
            for work, arrays in zip(works, sets, strict=True):
                assert all(found is given for found, given in zip(work.wait(), arrays, strict=True))
                work.synchronize()
            continue
        into: list[Array] = [np.empty(array.shape, array.dtype) for array in sets[0]]
        works = [
            communicator.irecv(into, source),
            communicator.irecv([TensorSpec.of(array) for array in sets[1]], source),
        ]
        first, second = [work.wait() for work in works]
        assert all(found is given for found, given in zip(first, into, strict=True))
        for found, expected in zip([*first, *second], [*sets[0], *sets[1]], strict=True):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected), f"from rank {source} of {n}"
    assert communicator.isend([], [(rank + 1) % n]).wait() == []
    assert communicator.irecv([], (rank + 1) % n).wait() == []
    caught(ValueError, lambda: communicator.isend([np.zeros(1)], [rank]).wait())
    caught(ValueError, lambda: communicator.irecv([TensorSpec((1,), "float64")], rank).wait())
    communicator.synchronize()
    communicator.check()
    assert communicator.allreduce(np.ones(3)).tolist() == [n] * 3


def _several(rank: int, seed: int) -> list[Array]:
    """Of several dtypes and sizes; one has no elements, and the last one is not contiguous."""
    kinds = (("float32", 3), ("int64", 0), ("float16", 1000), ("float64", 60_000))
    return [*(made(dtype, size, rank, seed) for dtype, size in kinds), made("int32", 12, rank, seed).reshape(3, 4).T]


def a_work_may_be_dropped(subject: Subject) -> None:
    subject.run(2, _dropped)


def _dropped(communicator: Communicator) -> None:
    spec = TensorSpec((3000,), "float32")
    if communicator.rank == 0:
        # What was begun runs though nobody waits for it; elsewhere a receive that nobody waited for was never made.
        for number in range(1, 3 if communicator.asynchronous else 2):
            communicator.isend([np.full(3000, number, np.float32)], [1])
    else:
        communicator.irecv([spec], 0)
        (found,) = communicator.irecv([spec], 0).wait()
        assert found.min() == found.max() == (2.0 if communicator.asynchronous else 1.0)
    assert communicator.allreduce(np.ones(1)).tolist() == [2.0]


def a_group_of_one_works(subject: Subject) -> None:
    subject.run(1, _alone)


def _alone(communicator: Communicator) -> None:
    for size in (0, 1, 100, 100_000):
        array = made("float16", size, 0)
        for op in ReduceOp:
            assert np.array_equal(communicator.allreduce(array, op), array)
            assert np.array_equal(communicator.reducescatter(array, op), array)
        assert np.array_equal(communicator.allgather(array), array)
        assert np.array_equal(communicator.broadcast(array, 0), array)
    caught(ValueError, lambda: communicator.send(np.zeros(1), 0))


def any_sequence_of_operations_is_right(subject: Subject) -> None:
    for world_size in subject.world_sizes:
        subject.run(world_size, _sequence, world_size, 60)


def _sequence(communicator: Communicator, seed: int, length: int) -> None:
    """The same choices on every rank; small and large, of all and of two, one after the other."""
    choose = random.Random(seed)
    n = communicator.world_size
    for step, kind in zip(range(length), _kinds(choose), strict=False):
        size = choose.choice((0, 1, 9, 500, 5000, 50_000, 120_000)) // n
        arrays = [made("float32", size * n, rank, seed=step) for rank in range(n)]
        mine, what = arrays[communicator.rank], f"step {step} of seed {seed}: {kind} of {size}"
        source, target = choose.sample(range(n), 2)
        total = reduced(ReduceOp.SUM, "float32", arrays)
        if kind == "allreduce":
            agrees(communicator, "float32", communicator.allreduce(mine), total, what)
        elif kind == "reducescatter":
            part = total[communicator.rank * size : (communicator.rank + 1) * size]
            agrees(communicator, "float32", communicator.reducescatter(mine), part, what)
        elif kind == "allgather":
            agrees(communicator, "float32", communicator.allgather(mine), np.concatenate(arrays), what)
        elif kind == "broadcast":
            agrees(communicator, "float32", communicator.broadcast(mine.copy(), source), arrays[source], what)
        elif communicator.rank == source:
            communicator.send(mine, target)
        elif communicator.rank == target:
            spec = TensorSpec(mine.shape, "float32")
            agrees(communicator, "float32", communicator.recv(spec, source), arrays[source], what)


def _kinds(choose: random.Random) -> Iterator[str]:
    while True:
        yield choose.choice(("allreduce", "reducescatter", "allgather", "broadcast", "send"))
