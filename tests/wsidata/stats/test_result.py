import json
import math
from contextlib import suppress

import pytest

from wsidata.stats.result import ChannelStats, StatsError
from wsidata.utils.files import json_sha256

STATS = ChannelStats(
    mean=(0.1 + 0.2, 1 / 3, 0.7),
    std=(0.1, math.sqrt(0.02), 0.3),
    count_px=10**11,
    image_count=3,
    reduction="pooled",
    tissue_only=True,
    max_value=255,
    resolution={"mpp": [0.5, 0.25]},
    crop="pack",
)


def test_json_keeps_every_bit_and_notices_changes(tmp_path):
    stats = STATS
    assert ChannelStats.from_json(stats.to_json()) == stats
    path = tmp_path / "new" / "stats.json"
    stats.save(path)
    assert ChannelStats.load(path) == stats
    assert hash(stats) == hash(ChannelStats.load(path))
    changed = json.loads(stats.to_json())
    changed["std"][0] = math.nextafter(changed["std"][0], 1)
    path.write_text(json.dumps(changed))
    with pytest.raises(StatsError, match=r"stats.json': these statistics were changed"):
        ChannelStats.load(path)
    for text in ("{}", "[1]", "mean", '{"digest": 1, "mean": [], "std": []}'):
        with pytest.raises(StatsError, match="no JSON of channel statistics"):
            ChannelStats.from_json(text)


def test_digest_depends_on_everything():
    others = [
        ChannelStats(**{**vars(STATS), name: value})
        for name, value in (("count_px", 1), ("reduction", "per_image"), ("resolution", {}), ("crop", None))
    ]
    assert len({STATS.digest, *(other.digest for other in others)}) == 5


ODD = [None, 3, -1, 2**80, 1e308 * 10, "x", True, [], {}, [[]], [None], [0.5, "x", 1], {"a": {}}]


@pytest.mark.parametrize("name", json.loads(STATS.to_json()))
def test_odd_values_are_refused_or_kept(tmp_path, name):
    path = tmp_path / "stats.json"
    for odd in ODD:
        content = json.loads(STATS.to_json()) | {name: odd}
        plain = {key: value for key, value in content.items() if key not in ("digest", "skipped")}
        path.write_text(json.dumps(content | ({} if name == "digest" else {"digest": json_sha256(plain)})))
        found = None
        with suppress(StatsError):
            found = ChannelStats.load(path)
        if found is not None:
            assert len(found.mean) == len(found.std) == 3
            assert all(isinstance(number, (int, float)) for number in (*found.mean, *found.std))


@pytest.mark.parametrize(
    "text", [b"", b"null", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b'{"mean": [NaN]}', b'[["digest", 1]]']
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "stats.json").write_bytes(text)
    with pytest.raises(StatsError, match=r"stats.json'.*no JSON of channel statistics"):
        ChannelStats.load(tmp_path / "stats.json")
