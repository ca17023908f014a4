"""Training of a cell: data, sampler, loop, validation."""
