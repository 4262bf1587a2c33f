"""Executors and worker processes on this machine."""
