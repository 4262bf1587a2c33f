"""Built-in defenses; installed as benchbd.defenses."""
