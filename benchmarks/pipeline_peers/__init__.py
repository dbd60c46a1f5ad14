"""Who takes part in `python -m benchmarks.pipelining`, and the stage that all of them run."""
