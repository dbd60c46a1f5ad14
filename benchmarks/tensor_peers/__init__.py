"""Who takes part in `python -m benchmarks.tensors`, and the layers that all of them compute."""
