"""Tensor parallelism: a matrix product cut by columns over two actors, which work on the same input at the same time.

Each worker holds half of the columns of w, so it computes half of the columns of x @ w. The input is written once, and
both workers read it from shared memory.

Expected output:
2 parts of shape (4, 3)
x @ w, put together, has shape (4, 6)
equal to the unsplit product: True
"""

import numpy as np
from numpy.typing import NDArray

import dagc

Array = NDArray[np.float64]


@dagc.remote
class Worker:
    """One rank: a block of columns of the weight matrix."""

    def __init__(self, columns: Array) -> None:
        self.columns = columns

    def fwd(self, x: Array) -> Array:
        return x @ self.columns


def main() -> None:
    rng = np.random.default_rng(seed=0)
    x, w = rng.standard_normal((4, 8)), rng.standard_normal((8, 6))

    workers = [Worker.remote(columns) for columns in np.split(w, 2, axis=1)]
    with dagc.InputNode() as activations:
        dag = dagc.MultiOutputNode([worker.fwd.bind(activations) for worker in workers])

    with dagc.compile(dag) as graph:
        parts = dagc.get(graph.execute(x))
        product = np.concatenate(parts, axis=1)

    print(len(parts), "parts of shape", parts[0].shape)
    print("x @ w, put together, has shape", product.shape)
    print("equal to the unsplit product:", np.allclose(product, x @ w))
    dagc.shutdown()


if __name__ == "__main__":
    main()
