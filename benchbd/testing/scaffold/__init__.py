"""What ``benchbd new`` writes: a working plugin of each kind and its test, under names that are replaced."""
