"""The trusted side of a cell: it sees the poison, the truth and the test images."""
