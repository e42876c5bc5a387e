"""Images in memory: where they come from, how they are split and how a batch is made."""
