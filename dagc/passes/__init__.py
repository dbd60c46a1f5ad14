"""The passes: pure functions from frozen values to frozen values, in the order in which dagc/planner.py calls them.

    edges        Graph                  -> which values go from one party to another
    transports   edges, Placement       -> how each of them goes
    channels     transports, options    -> one channel a value
    schedule     Graph, channels        -> each party's ops, in order
    simulate     schedule, channels     -> nothing, or a DeadlockError
    lower        Plan, Graph            -> one Program an actor, one for the driver

None sees an engine, a process or a socket.
"""
