"""Where cells are computed on this machine."""
