"""The load generator: a server or the in-process engine under a known workload."""
