"""The passes: pure functions from frozen values to frozen values, in the order in which dagc/planner.py calls them.

    order        Graph                  -> the order in which the calls are made
    edges        Graph, order           -> which values go from one party to another
    transports   edges, Placement       -> how each of them goes
    channels     transports, options    -> one channel a value, however many read it
    schedule     Graph, order, channels -> each party's ops, in order
    overlap      schedule, channels     -> the same, with receives of rendezvous channels begun early
    fuse         schedule, Graph        -> the same, with neighbouring calls as one op
    buffers      schedule, channels     -> channels with no more slots than the plan needs
    simulate     schedule, channels     -> nothing, or a DeadlockError
    lower        Plan, Graph            -> one Program an actor, one for the driver

tokens, checks and stuck are parts of simulate and overlap: the machine, what is refused, the text of a DeadlockError.
None sees an engine, a process or a socket.
"""
