"""What papers report beside what a study measured: the numbers, whether set-ups agree, and the verdict."""
