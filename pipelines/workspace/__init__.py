"""A workspace: what it holds, where, and which cells are asked for."""
