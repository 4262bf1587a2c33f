"""Built-in models; installed as benchbd.models."""
