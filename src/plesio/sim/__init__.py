"""The other driver of the core: virtual clock, simulated processes and network, seeded faults. No tensors, no sockets."""
