import json
import subprocess
import sys

import pytest

import wsidata


def loaded_after(code):
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    return set(json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout))


def test_import_is_light():
    heavy = {"torch", "lightning", "pandas", "sklearn", "matplotlib", "numpy", "pyvips", "tifffile", "albumentationsxl"}
    assert not heavy & loaded_after("import wsidata; wsidata.__version__; dir(wsidata)")


def test_slide_needs_no_lightning():
    assert not {"torch", "lightning", "pandas", "sklearn", "matplotlib"} & loaded_after("from wsidata import Slide")


def test_every_public_name_is_there():
    for name in wsidata.__all__:
        assert getattr(wsidata, name) is not None
    assert set(wsidata.__all__) <= set(dir(wsidata))


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'Slides'. It offers .*Slide"):
        wsidata.Slides  # noqa: B018 - the access is what is tested
