"""The demonstration, from synthetic slides to a report, and a training step larger than memory."""
