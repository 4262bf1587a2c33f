"""Reports: one table model rendered as markdown, csv, json, latex and html; figures; the paper's claims."""

from benchbd.report.board import GATE, Board
from benchbd.report.leaderboard import board

__all__ = ["GATE", "Board", "board"]
