"""The web page and the alarms of live classification, measured."""
