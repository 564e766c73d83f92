"""Active probes of the running host (`doctor --probe`): each in a process of its own, each bounded in time."""
