"""Rebuild of the model on new labelled data, scheduled or by hand, up to the step before promotion."""
