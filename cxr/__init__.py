"""A chest X-ray image: header, view decision, pixels, model package. Frozen types and pure functions of all roles."""
