"""What one chest X-ray is to us: frozen types and pure functions, shared by every role."""
