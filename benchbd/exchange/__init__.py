"""Poisoned sets of other programs: one module reads and writes each format. Nothing is unpickled."""
