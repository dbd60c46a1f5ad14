"""Time: what ran when, and what it cost.

recorder    the stamps of one party, while it runs
collect     those of all parties become a Trace
timeline    the stamps of one party, as a value
trace       Trace: spans, figures, costs, a file for Perfetto
waits       where the waiting in a span was over
figures     latency, throughput, bubble
measure     Costs from a trace
costs       Costs: what each call, send and receive takes
chrome      the file
ranges      calls marked for NVIDIA's tools
"""
