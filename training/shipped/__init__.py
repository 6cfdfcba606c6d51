"""The models that come with the project: their manifests, quantised weights, archive."""
