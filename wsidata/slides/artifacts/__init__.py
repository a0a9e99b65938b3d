"""Pen strokes, folds, bubbles and blur, found by classical methods, and tissue without them."""
