"""Files by which processes coordinate: the lease on a folder, requests to stop, the journal of decisions."""
