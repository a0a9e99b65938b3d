"""Heat map of one slide in Python, step by step; `slidestream heatmap` does it for many.

python recipes/heatmap.py runs/.../best.ckpt tumor_001.tif heatmaps --class tumor
"""

import argparse
from pathlib import Path
from typing import Any

from slidestream import load_trained
from slidestream.heatmaps.draw import find_class
from slidestream.heatmaps.read import open_image
from streammodels import (
    hottest_places,
    hottest_regions,
    place,
    write_color_pyramid,
    write_geojson,
    write_overlay,
    write_pyramid,
)


def main(arguments: list[str] | None = None) -> None:
    """Read, explain, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a StreamingResNet or StreamingClassifier")
    parser.add_argument("slide", type=Path, help="a slide, which is read as those of training")
    parser.add_argument("output", type=Path, help="folder for the files")
    parser.add_argument("--class", dest="class_name", help="class to explain (the one with the highest score)")
    options = parser.parse_args(arguments)

    trained = load_trained(options.checkpoint)
    network: Any = trained.model
    with open_image(trained, options.slide) as opened:  # rows are decoded as the network requests them
        found = network.class_activation_map(opened.image, find_class(options.class_name, trained.class_names))
    name = trained.class_names[int(found.class_index[0])]
    stem = options.output / f"{options.slide.stem}_{name}"

    # The map over the whole slide, whatever crop or packing the network saw, in level-0 pixels
    placed = place(found, opened.placement)
    for one in hottest_places(placed, 3, apart_lv0=1000):
        print(f"hot: x {one.x_lv0:.0f}, y {one.y_lv0:.0f}, logit {one.value:.3g}")
    regions = hottest_regions(placed, quantile=0.98)

    write_overlay(found, f"{stem}.png", opened.picture, class_name=name, placement=opened.placement)
    write_pyramid(found, f"{stem}.tif", placement=opened.placement, class_name=name)
    write_color_pyramid(found, f"{stem}_colors.tif", placement=opened.placement, class_name=name)
    write_geojson(f"{stem}.geojson", regions, class_name=name, value_name="logit")
    print(f"{len(regions)} regions; files: {stem}*")


if __name__ == "__main__":
    main()
