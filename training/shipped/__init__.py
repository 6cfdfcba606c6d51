"""The shipped models: manifests, quantised weights, archive."""
