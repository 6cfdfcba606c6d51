"""From a run to a model package: figures, model card, input gate, golden images."""
