"""Networks over the nodes of a graph, one per file."""
