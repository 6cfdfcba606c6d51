"""The commands of ``cxr model``: packages and candidates."""
