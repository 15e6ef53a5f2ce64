"""How work is carried out: chapters, sweeps, records."""
