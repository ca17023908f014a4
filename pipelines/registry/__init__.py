"""The MLflow model registry: candidates, evidence, the gate, and champions."""
