"""Where inputs come from: archives, corpora, checkpoints, the numbers of the paper."""
