"""The decisions of a pool: its tasks, queues and workers. Pure; see coordinator.py."""
