"""Which task is next, and which worker gets it. Pure; one file each, contracts in base.py."""
