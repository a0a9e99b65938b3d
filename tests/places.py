"""Where the tests find the project, and the real slides and photos that lie beside it on some machines."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
SLIDES = DATA / "slides"
PHOTOS = DATA / "photos" / "mushrooms"
