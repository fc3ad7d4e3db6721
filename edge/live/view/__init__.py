"""The web page of a run: live pictures, charts, events, and the choice among certified thresholds."""
