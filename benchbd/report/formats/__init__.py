"""The leaderboard written as markdown, LaTeX, CSV, JSON and HTML."""
