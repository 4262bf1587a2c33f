"""Built-in matrices; installed as benchbd.matrices."""
