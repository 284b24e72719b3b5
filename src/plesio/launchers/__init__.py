"""Where processes run: a launcher starts, signals and ends them, and reports each end once."""
