"""The tasks of the study: canvases of digits and synthetic slides, what encoders see of them, and checks of both."""
