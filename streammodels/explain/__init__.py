"""Saliency, class activation maps and attention maps of streamed networks."""
