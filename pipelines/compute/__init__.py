"""Ray: the cluster, jobs, the queue of cells, and what a worker does."""
