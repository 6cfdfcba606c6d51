"""Plots of evaluations, data sets and evidence maps; loads Matplotlib."""
