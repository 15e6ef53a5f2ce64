"""One module for each quantity that the paper defines: arrays in, numbers or data frames out."""
