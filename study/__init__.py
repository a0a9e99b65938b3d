"""The study of docs/study.md: whole images, shrunk images and tiles, trained alike on data with known truth."""
