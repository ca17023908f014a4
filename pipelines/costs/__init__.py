"""Benchmarks of what training and inference cost."""
