"""The claims of the reference paper, judged on records."""
