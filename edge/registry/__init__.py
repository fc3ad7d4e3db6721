"""Bundles in OCI registries: addresses, the artifact, its transfer. Needs the extra `trust`."""
