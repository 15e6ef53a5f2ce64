"""What chapters hand to `records.recall` and `sweep.run`: functions that load, compute and return a data frame."""
