"""Errors and warnings about slides and photos, with one base class.

Messages name the file, what was found, and what to do about it.
"""


class SlideError(Exception):
    """Base class of the errors about one slide or photo."""


class UnreadableImageError(SlideError, OSError):
    """The file is damaged, truncated, or no image."""


class UnreachableImageError(SlideError, OSError):
    """The disk or mount of the file failed, after retries, too; the file itself may be intact.

    Attributes:
        errno: The system's number of the error.
    """


class UnsupportedImageError(SlideError, ValueError):
    """The file is intact, but has no unambiguous 8-bit RGB image."""


class UndecidedImageError(UnsupportedImageError):
    """The image is readable once `channels` or `scale_to_8bit` say how.

    Attributes:
        channel_names: Names of all channels, where some have to be chosen; else empty.
    """

    def __init__(self, message: str, channel_names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.channel_names = channel_names


class UnknownPlaneError(UnsupportedImageError):
    """The file does not have the requested image, focal plane or time.

    Attributes:
        argument: Which was requested: "series", "z" or "t".
        names: Those that the file has, numbers where they have no names.
    """

    def __init__(self, message: str, argument: str = "", names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.argument = argument
        self.names = names


class LimitExceededError(UnsupportedImageError):
    """The file asks for more memory, disk or time than files are allowed to; see `wsidata.formats.limits`."""


class ForeignFormatError(UnsupportedImageError):
    """A slide format that only OpenSlide may read."""


class UnknownLevelError(SlideError, ValueError):
    """The slide does not have the requested pyramid level."""


class SpacingUnknownError(SlideError, ValueError):
    """A resolution (um/px, mpp) or magnification was requested, and the slide does not state its own."""


class ResolutionUnavailableError(SlideError, ValueError):
    """The requested resolution is finer than that of level 0."""


class NoTissueError(SlideError, ValueError):
    """A crop to the tissue was requested, and the slide has none."""


class ConfinementError(SlideError, ValueError):
    """A file, table or repository names a path outside its own folder."""


class SpacingConflictWarning(UserWarning):
    """Two sources disagree about the resolution (um/px, mpp) of one slide."""


class MissingChunksWarning(UserWarning):
    """Chunks of an OME-Zarr are missing: never written, or lost in copying."""
