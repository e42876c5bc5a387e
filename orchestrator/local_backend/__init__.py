"""Runs a study without Ray: in this process, or with one local process per rank."""
