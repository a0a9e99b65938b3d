"""What can be wrong with a slide, as exceptions: one base class, so that a loop over a folder catches one name.

Every message names the file, says what was found, and what to do about it.
"""


class SlideError(Exception):
    """Base class of everything wsidata refuses about one slide or photo."""


class UnreadableImageError(SlideError, OSError):
    """The file is damaged, cut off, or no image at all."""


class UnsupportedImageError(SlideError, ValueError):
    """The file is sound, but what it holds is no 8-bit RGB image that could be shown without guessing."""


class ForeignFormatError(UnsupportedImageError):
    """A slide format that wsidata does not read by itself; OpenSlide may."""


class UnknownLevelError(SlideError, ValueError):
    """A pyramid level was asked for that the slide does not have."""


class SpacingUnknownError(SlideError, ValueError):
    """A spacing or magnification was asked for, and the slide does not say its own."""


class ResolutionUnavailableError(SlideError, ValueError):
    """More detail was asked for than level 0 holds."""


class NoTissueError(SlideError, ValueError):
    """A crop to the tissue was asked for, and the slide shows none."""


class SpacingConflictWarning(UserWarning):
    """Two sources disagree about the pixel spacing of one slide."""


class MissingChunksWarning(UserWarning):
    """Chunks of an OME-Zarr are absent: never written, or lost in copying."""
