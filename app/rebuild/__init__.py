"""Rebuild the model on new labelled images, by schedule or command; a person promotes the result."""
