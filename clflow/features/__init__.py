"""Frozen features: backbone, weights, registration of levels, extraction, cache."""
