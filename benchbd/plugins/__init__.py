"""What a plugin is, how it is found by name, and what it is handed."""
