"""Jobs of kind `probe`: they measure the networks of finished runs, one or several together."""
