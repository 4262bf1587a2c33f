"""Where cells are computed on other machines."""
