from dataclasses import replace

import pandas as pd
import pytest
import yaml

from wsidata.hub.card import (
    BEGIN,
    END,
    CardError,
    CardText,
    agreed_card,
    merged_card,
    split_card,
    unfinished_card,
    users_part,
    write_card,
)
from wsidata.hub.manifest import Encoding, Preprocessing, TableFile, Transforms
from wsidata.stats.result import ChannelStats

STATS = ChannelStats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 100, 2, "pooled", False, 255, {"mpp": 2.0})
ROWS = pd.DataFrame(
    {
        "image_id": ["1", "2", "3"], "label": [0, 1, 0], "label_name": ["benign: no", "a|b", "benign: no"],
        "group": ["group-0001"] * 3, "row": [0, 1, 2], "split": ["train", "train", "validation"],
    }
)  # fmt: skip
FACTS = Preprocessing(
    kind="slides",
    layout="files",
    encoding=Encoding("jpeg", 90),
    target="class",
    class_names=("benign: no", "a|b"),
    tables=(TableFile("train", "t", 2, ""), TableFile("validation", "v", 1, "")),
    transforms={"train": Transforms(True, "RandomD4()", None), "eval": Transforms(True, "", "CropOrPad(8)")},
    arguments={"mpp": 2.0, "seed": 42, "val_fraction": 0.2, "test_fraction": 0.0, "stratify": True, "image_size": None},
    crop={"kind": "pack"},
    split_digest="abcdef",
    opaque_ids=True,
    stats=STATS,
    versions={"slidestream": "0.1.0"},
    image_count=3,
    image_bytes=3_000_000,
)


def card(present="", facts=FACTS, **text):
    return merged_card(present, facts, ROWS, CardText(**text))


def test_front_matter_is_what_the_hub_reads():
    front, _ = split_card(card(license="cc-by-4.0", title="My slides", tags=("breast",)))
    assert front["license"] == "cc-by-4.0"
    assert front["pretty_name"] == "My slides"
    assert front["task_categories"] == ["image-classification"]
    assert front["size_categories"] == ["n<1K"]
    assert {"histopathology", "breast", "image"} <= set(front["tags"])
    assert front["configs"][0]["data_files"][1] == {"split": "validation", "path": "validation/**"}
    label = next(one for one in front["dataset_info"]["features"] if one["name"] == "label")
    assert label["dtype"]["class_label"]["names"] == {"0": "benign: no", "1": "a|b"}


def test_front_matter_passes_the_hubs_own_reader():
    from huggingface_hub import DatasetCard

    data = DatasetCard(card(license="mit")).data
    assert data.license == "mit"
    assert data.configs[0]["config_name"] == "default"


def test_parquet_has_patterns_of_its_own():
    front, _ = split_card(card(facts=replace(FACTS, layout="parquet")))
    assert front["configs"][0]["data_files"][0]["path"] == "data/train-*"


def test_body_describes_how_images_were_made():
    _, body = split_card(card(description="From Utrecht."))
    for said in (
        "From Utrecht.", "| train | 2 | 1 | 1 |", "a\\|b", "seed 42", "val_fraction 0.2", "stratified by class",
        "mpp=2.0", "cropped to tissue (pack)", "jpeg of quality 90", "`CropOrPad(8)`", "0.100000, 0.200000",
        "HubDataModule",
        "replaced by numbers", "groups (patients) are never divided",
    ):  # fmt: skip
        assert said in body
    assert "stratified by event and time" in split_card(card(facts=replace(FACTS, target="survival")))[1]


def test_writing_it_again_changes_nothing(tmp_path):
    first = write_card(tmp_path, FACTS, ROWS, CardText("mit", "Title", "Text", ("x",)))
    stamp = (tmp_path / "README.md").stat().st_mtime_ns
    assert write_card(tmp_path, FACTS, ROWS, CardText(description="Text")) == first
    assert (tmp_path / "README.md").stat().st_mtime_ns == stamp
    assert first.count(BEGIN) == first.count(END) == 1


def test_user_text_is_kept():
    front = yaml.safe_dump({"license": "mit", "extra_gated_prompt": "Be kind.", "tags": ["mine"], "configs": ["old"]})
    mine = f"---\n{front}---\n# Above\n\n{BEGIN}\nold facts\n{END}\n\nBelow: é\n"
    merged, body = split_card(card(mine))
    assert (merged["license"], merged["extra_gated_prompt"], merged["tags"]) == ("mit", "Be kind.", ["mine"])
    assert merged["configs"] != ["old"]
    assert body.startswith("# Above\n\n")
    assert body.endswith("\n\nBelow: é\n")
    assert "old facts" not in body
    assert split_card(card("Only words."))[1].endswith("Only words.")
    assert split_card(card(mine, license="other"))[0]["license"] == "other"


@pytest.mark.parametrize(("text", "message"), [("---\na: b\n", "does not end"), ("---\na: [\n---\n", "not YAML"),
                                               ("---\n- a\n---\n", "not a mapping")])  # fmt: skip
def test_cards_that_cannot_be_read_are_refused(text, message):
    with pytest.raises(CardError, match=message):
        card(text)


def edited(text, below=None, **front):
    content, body = split_card(text)
    body = body if below is None else body.partition(END)[0] + f"{END}\n{below}"
    return f"---\n{yaml.safe_dump(content | front, sort_keys=False)}---\n{body}"


def test_changes_in_the_folder_and_on_the_hub_are_both_kept():
    base = card()
    agreed = agreed_card(edited(base, license="mit"), edited(base, below="Mine.", language="nl"), base)
    assert split_card(agreed)[0]["license"] == "mit"
    assert split_card(agreed)[0]["language"] == "nl"
    assert users_part(agreed)[1] == "Mine."
    assert agreed_card(edited(base, below="New."), base, base).endswith("New.")
    assert agreed_card(base, "", None) == base
    assert agreed_card(base, base, base) == base


def test_new_facts_take_the_place_of_old_ones_on_the_hub():
    base = edited(card(), below="Mine.")
    newer = card(base, replace(FACTS, split_digest="123456"))
    agreed = agreed_card(newer, edited(base, below="Mine, better."), base)
    assert "123456" in agreed
    assert "abcdef" not in agreed
    assert users_part(agreed)[1] == "Mine, better."


def test_existing_card_of_a_repository_is_preferred_at_first_publication():
    theirs = "---\nlicense: gpl\n---\nTheirs.\n"
    agreed = agreed_card(card(), theirs, None)
    assert split_card(agreed)[0]["license"] == "gpl"
    assert split_card(agreed)[0]["configs"] == split_card(card())[0]["configs"]
    assert "Theirs." in agreed
    assert agreed.count(BEGIN) == 1


def test_conflicting_changes_raise():
    base = card()
    with pytest.raises(CardError, match=r"'license' of README\.md was changed both"):
        agreed_card(edited(base, license="mit"), edited(base, license="gpl"), base)
    with pytest.raises(CardError, match=r"the text of README\.md was changed both"):
        agreed_card(edited(base, below="A"), edited(base, below="B"), base)
    assert agreed_card(edited(base, below="A"), edited(base, below="A"), base).endswith("A")


def test_card_during_an_upload_warns_and_keeps_the_users_part():
    mine = edited(card(), below="Mine.", language="nl")
    front, body = split_card(unfinished_card(mine))
    assert "not complete" in body
    assert "Mine." in body
    assert front["language"] == "nl"
    assert "configs" not in front
    assert "not complete" in unfinished_card("")
