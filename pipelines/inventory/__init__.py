"""What a workspace has: its cells, results and models, as `clflow list` and `clflow show` tell it."""
