"""Rebuilds model packages from manifests of images; knows neither database nor network."""
