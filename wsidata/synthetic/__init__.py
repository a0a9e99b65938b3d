"""Synthetic slides and photos for demos and tests."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.synthetic.artifacts import PaintedSlide as PaintedSlide
    from wsidata.synthetic.artifacts import paint_slide as paint_slide
    from wsidata.synthetic.lesions.micrometastases import write_micrometastases as write_micrometastases
    from wsidata.synthetic.lesions.relations import write_relations as write_relations
    from wsidata.synthetic.outlines import tumor_outlines as tumor_outlines
    from wsidata.synthetic.photos import write_photo_folders as write_photo_folders
    from wsidata.synthetic.photos import write_photos as write_photos
    from wsidata.synthetic.slides import write_camelyon16 as write_camelyon16
    from wsidata.synthetic.slides import write_pixels as write_pixels
    from wsidata.synthetic.slides import write_slide as write_slide

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "lesions.micrometastases": ["write_micrometastases"],
        "lesions.relations": ["write_relations"],
        "artifacts": ["PaintedSlide", "paint_slide"],
        "outlines": ["tumor_outlines"],
        "photos": ["write_photo_folders", "write_photos"],
        "slides": ["write_camelyon16", "write_pixels", "write_slide"],
    },
)
