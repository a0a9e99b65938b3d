"""Facts about a slide for the command line, notebooks and plots."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyvips

from wsidata.formats.channels import MAX_LISTED
from wsidata.formats.levels import Level
from wsidata.slides.slide_file import SlideFile


@dataclass(frozen=True)
class SlideInfo:
    """Facts about one slide, or why it could not be opened.

    Attributes:
        path: The file.
        kind: Sort of file, "" if it could not be opened.
        reader: Decoder of its pixels.
        levels: The pyramid, finest level first.
        mpp: Resolution of level 0 in um per pixel, (x, y), or None if unknown.
        mpp_source: Source of the mpp.
        magnification: Objective power, or None.
        channels: Names of the channels.
        associated: Names of the label, macro and other images in the file.
        has_profile: Whether there is a color profile.
        properties: Other metadata.
        warnings: Warnings when it was opened.
        choice: Which choice its pixels need (channels, a scale to 8 bits, an image or plane), "" if none.
        series: Names of the images that `series=` chooses from, where there are several.
        z: Numbers of the focal planes, where there are several.
        t: Numbers of the times, where there are several.
        error: Why it could not be opened, "" if it could.
    """

    path: str
    kind: str = ""
    reader: str = ""
    levels: tuple[Level, ...] = ()
    mpp: tuple[float, float] | None = None
    mpp_source: str | None = None
    magnification: float | None = None
    channels: tuple[str, ...] = ()
    associated: tuple[str, ...] = ()
    has_profile: bool = False
    properties: dict[str, str] | None = None
    warnings: tuple[str, ...] = ()
    choice: str = ""
    series: tuple[str, ...] = ()
    z: tuple[str, ...] = ()
    t: tuple[str, ...] = ()
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.error:
            return f"{self.path}\n  cannot be read: {self.error}"
        lines = [self.path, f"  {self.kind}, read by {self.reader}", f"  spacing   {self.spacing}"]
        lines += [f"  channels  {', '.join(self.channels)}"] if self.channels else []
        lines += [f"  series    {_series(self.series)}"] if self.series else []
        lines += [f"  planes    z=0 to {len(self.z) - 1}"] if self.z else []
        lines += [f"  times     t=0 to {len(self.t) - 1}"] if self.t else []
        lines += [f"  also has  {', '.join(self.associated)}"] if self.associated else []
        lines.append(f"  {'level':<7}{'width':>8}{'height':>8}  {'downsample':<12}um/px")
        for level in self.levels:
            mpp = "unknown" if level.mpp is None else _pair(*level.mpp)
            step = _pair(level.downsample_x, level.downsample_y)
            lines.append(f"  {level.index:<7}{level.width:>8}{level.height:>8}  {step:<12}{mpp}")
        lines += [f"  to read   {self.choice}"] if self.choice else []
        return "\n".join(lines + [f"  warning: {warning}" for warning in self.warnings])

    @property
    def spacing(self) -> str:
        """The mpp, its source, and the objective power, as text."""
        power = "" if self.magnification is None else f", {self.magnification:g}x"
        if self.mpp is None:
            return f"unknown{power} (pass mpp_override=, or choose by level=)"
        return f"{_pair(*self.mpp)} um/px, from {self.mpp_source}{power}"


def slide_facts(slide: SlideFile, warned: Iterable[str]) -> SlideInfo:
    """Facts about an open slide, and the warnings when it was opened."""
    return SlideInfo(
        path=str(slide.path),
        kind=slide.kind,
        reader=slide.reader,
        levels=slide.levels,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        magnification=slide.magnification,
        channels=tuple(slide.channel_names),
        associated=tuple(slide.associated_images),
        has_profile=slide.icc_profile is not None,
        properties=slide.properties,
        warnings=tuple(warned),
    )


def _series(names: tuple[str, ...]) -> str:
    """Images by number and name, or the numbers alone where they have no names."""
    if names == tuple(map(str, range(len(names)))):
        return f"series=0 to {len(names) - 1}"
    more = ", ..." if len(names) > MAX_LISTED else ""
    return ", ".join(f"{number}: {name}" for number, name in enumerate(names[:MAX_LISTED])) + more


def _pair(x: float, y: float) -> str:
    return f"{x:.4g}" if f"{x:.4g}" == f"{y:.4g}" else f"{x:.4g} x {y:.4g}"


def slide_html(slide: SlideFile, thumbnail: pyvips.Image) -> str:
    """A slide as HTML for a notebook: thumbnail, levels and resolution."""
    info = slide_facts(slide, ())
    if thumbnail.bands not in (1, 3) or thumbnail.format != "uchar":  # of fluorescence channels the first, stretched
        thumbnail = thumbnail[0].scaleimage().copy(interpretation="b-w")
    image = base64.b64encode(thumbnail.pngsave_buffer()).decode()
    rows = "".join(
        f"<tr><td>{level.index}</td><td>{level.width} &times; {level.height}</td>"
        f"<td>{_pair(level.downsample_x, level.downsample_y)}</td>"
        f"<td>{'unknown' if level.mpp is None else _pair(*level.mpp)}</td></tr>"
        for level in info.levels
    )
    return (
        f'<div style="display:flex;gap:1em;align-items:flex-start"><img alt="thumbnail" '
        f'src="data:image/png;base64,{image}"><div><b>{html.escape(slide.path.name)}</b><br>'
        f"{html.escape(info.kind)}, read by {html.escape(info.reader)}<br>spacing {html.escape(info.spacing)}"
        f"<table><tr><th>level</th><th>pixels</th><th>downsample</th><th>um/px</th></tr>{rows}</table></div></div>"
    )
