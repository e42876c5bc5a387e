"""Published results next to those of a study: the numbers, whether experimental setups agree, and the verdict."""
