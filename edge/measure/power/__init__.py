"""Meters of electrical power and energy: a file per kind of sensor."""
