"""Synthetic anomalies with surrogate annotations: where (shapes), what (sources), how (blending), and recipes."""
