"""Jobs of kind `function`: a training function or a script of the user's own."""
