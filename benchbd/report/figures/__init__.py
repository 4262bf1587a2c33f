"""The figures of the reference paper, drawn from records."""
