"""Templates for ``benchbd new``: a working plugin of each kind and its test, with placeholder names."""
