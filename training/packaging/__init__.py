"""Model packages of finished runs: figures, model card, input gate, golden images."""
