"""What a person reads: leaderboard, comparison, plots, galleries."""
