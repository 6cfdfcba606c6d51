"""Collections made for tuberculosis."""
