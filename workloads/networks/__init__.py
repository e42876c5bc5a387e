"""What the networks in `workloads.models` share: the builder's protocol, residual blocks, initialisation."""
