"""Pipeline parallelism: four stages in a row, and as many micro-batches on their way through them at once.

`execute` does not wait for the result, so micro-batch 1 enters stage 0 while stage 1 works on micro-batch 0. Results
come back in the order of submission.

Expected output:
micro-batch 0 sum 30.0
micro-batch 1 sum 46.0
micro-batch 2 sum 62.0
micro-batch 3 sum 78.0
every stage saw [4, 4, 4, 4] micro-batches
"""

import numpy as np
from numpy.typing import NDArray

import dagc

Array = NDArray[np.float64]
STAGES = 4


@dagc.remote
class Stage:
    def __init__(self, bias: float) -> None:
        self.bias = bias
        self.seen = 0

    def fwd(self, x: Array) -> Array:
        self.seen += 1
        return x + self.bias

    def count(self) -> int:
        return self.seen


def main() -> None:
    stages = [Stage.remote(bias) for bias in range(STAGES)]
    with dagc.InputNode() as dag:
        for stage in stages:
            dag = stage.fwd.bind(dag)

    with dagc.compile(dag, max_inflight=STAGES) as graph:
        batch = np.arange(16.0).reshape(4, 4)
        in_flight = [graph.execute(micro_batch) for micro_batch in batch]
        for number, out in enumerate(dagc.get(in_flight)):
            print("micro-batch", number, "sum", out.sum())

    print("every stage saw", dagc.get([stage.count.remote() for stage in stages]), "micro-batches")
    dagc.shutdown()


if __name__ == "__main__":
    main()
