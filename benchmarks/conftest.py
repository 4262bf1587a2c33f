"""What the benchmarks share with the tests."""

from torch_threads import one_thread

__all__ = ["one_thread"]
