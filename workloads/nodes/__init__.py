"""Jobs of kind `nodes`: classify the nodes of a graph, a rare class against the rest, with calibrated uncertainty."""
