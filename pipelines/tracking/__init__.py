"""MLflow tracking: the server, executions, runs, metrics and logged models."""
