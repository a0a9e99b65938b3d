"""Lightning data modules for whole-slide images and folders of photos."""
