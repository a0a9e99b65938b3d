import pytest


@pytest.fixture
def folder(request, tmp_path):
    """Makes empty files, and finds them with the `FOLDER` of the test module."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return request.module.FOLDER(tmp_path)

    return make
