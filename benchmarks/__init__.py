"""dagc, the physical limit and Ray's compiled graphs, measured side by side in one run: `python -m benchmarks.run`."""
