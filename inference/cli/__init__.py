"""The commands ``cxr model``: packages and candidates."""
