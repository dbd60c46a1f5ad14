"""Predictions: a plan replayed with costs, without running anything.

predict     Plan, Costs -> latency, throughput, idle shares, a trace of the replay
replay      the parties as processes of a discrete-event simulation
cores       its clock, and the cores that they share
steady      how many executions are enough
partition   a chain of layers cut into balanced stages
"""
