"""The detector and its parts: frozen backbone, feature grid, normalizing flow and losses."""
