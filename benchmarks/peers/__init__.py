"""Early exits beside every other way to run a network on a CPU."""
