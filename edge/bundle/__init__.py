"""What travels to the device: manifest, files, recorded scores, sample identities."""
