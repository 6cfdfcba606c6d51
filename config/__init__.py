"""Settings, logs and metrics, shared by all processes."""
