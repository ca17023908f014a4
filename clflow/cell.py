"""What names the folder of a trained detector, with the files that its training leaves beside it."""

CELL_FILE = "cell.json"
"""Written last: dataset, category, method, seed and key of what was trained."""
