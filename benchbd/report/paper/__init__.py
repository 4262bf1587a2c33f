"""The claims of the reference paper, judged by records."""
