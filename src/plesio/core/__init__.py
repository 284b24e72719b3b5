"""Pure decisions: events in, facts and effects out. No clock, no I/O, no torch."""
