"""Ray sessions, cluster profiles and manifests, checks of nodes, and Ray jobs."""
