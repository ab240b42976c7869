"""Requests sent to running nodes, and what became of each: one generator, and the schedules that it follows.

May import the clients and the simulator's record of a request; starts no node."""
