"""Submits specs to a cluster as Ray jobs and checks what they need there."""
