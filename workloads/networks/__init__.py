"""The parts that the networks in `pruneyard.workloads.models` share: the builder's protocol, residual blocks, initialisation."""
