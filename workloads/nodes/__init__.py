"""Jobs of kind `nodes`: classify the nodes of one graph, a rare class against the rest, and say how sure each answer is."""
