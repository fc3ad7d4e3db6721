"""Photographs of solar cells, cross-validated: three exits against the network alone, and with against without EGT."""
