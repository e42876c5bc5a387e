"""Jobs of kind `merge`: they merge finished runs into one network, or their outputs into one prediction."""
