"""TCP ports that a job uses on node 0."""

#: The port DeepEP's tests take when MASTER_PORT is unset (tests/utils.py, init_dist); EPBox itself talks on the next one.
MASTER_PORT = 8361
