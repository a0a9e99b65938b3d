"""Explanations of predictions: saliency, class activation maps and attention maps."""
