"""Collections whose labels were taken from radiologists' reports, by rules or by reading."""
