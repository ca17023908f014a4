"""What runs inside Ray Serve: a gateway that speaks HTTP, and scorers that hold the champions."""
