"""Plug-ins for clflow."""
