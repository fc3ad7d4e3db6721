"""Two sides that take turns: their worker processes, the turns, and the verdict."""
