"""From a YAML file to cells, and what these share. Nothing here imports torch."""
