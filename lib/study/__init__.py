"""What is asked of models and texts: address and corpus in, a data frame out, for `records.recall` and `sweep.run`."""
