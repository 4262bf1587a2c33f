"""Built-in attacks; installed as benchbd.attacks."""
