"""The reference paper's figures, drawn from records."""
