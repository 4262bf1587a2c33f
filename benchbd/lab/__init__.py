"""The memoised workbench of a defense, and what its stages cost."""
