"""What ties the ranks of a group together beside their tensors, for transports that lack it (gloo, NCCL).

wire          what is said, how it is framed, who may say it
roster        what the coordinator knows and answers: a pure state machine
coordinator   the creator's side: one socket, one thread
membership    a rank's side: what it hears and what it tells
interrupts    Ctrl-C in waits of foreign code
"""
