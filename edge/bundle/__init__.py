"""The bundle: manifest, validation, files, recorded scores, sample identities."""
