"""The worker: scores images with a model package, writes and delivers reports."""
