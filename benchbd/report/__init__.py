"""What people look at: one table model rendered as markdown, csv, json, latex and html; figures; the paper."""

from benchbd.report.leaderboard import GATE, Board, board

__all__ = ["GATE", "Board", "board"]
