"""The physical limit: the least that two processes and the machine between them need for the same exchange."""
