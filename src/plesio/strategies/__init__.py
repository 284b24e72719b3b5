"""A strategy is a rule for how results are aggregated."""
