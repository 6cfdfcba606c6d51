"""The rebuild of the model on new labelled data: by the clock or by hand, up to the step before promotion."""
