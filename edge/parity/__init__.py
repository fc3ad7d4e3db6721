"""Two ways of running a bundle, compared exit by exit."""
