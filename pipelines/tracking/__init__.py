"""MLflow tracking: runs, metrics and logged models."""
