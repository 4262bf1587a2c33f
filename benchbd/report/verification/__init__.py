"""Checks of somebody's results: what records contradict, and whether cells repeat on this machine."""
