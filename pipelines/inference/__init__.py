"""Use of a trained model: predict, export, serve, and watch for drift."""
