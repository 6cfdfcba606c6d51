"""The worker: score images with a model package, write and deliver reports."""
