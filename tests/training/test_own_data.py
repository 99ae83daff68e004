"""One's own data, and other data mixed in against forgetting."""

from collections import Counter
from pathlib import Path

import pytest

from m2kr.building.userdata.importer import import_files
from m2kr.data.load import load
from m2kr.errors import M2KRError, MissingError, UsageError
from m2kr.training.mix import mixed
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.recipe import Recipe, Share, Start
from m2kr.training.start import build_model
from m2kr.training.validation import Validator
from tests.support.own_folder import write_own
from tests.support.tiny_training import tiny_recipe

METALS = ("tin", "lead", "zinc", "iron", "gold")
BIRDS = ("jay", "owl", "rook", "wren", "lark", "kite", "swan", "crane")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with birds of before and metals."""
    root = tmp_path_factory.mktemp("own")
    for name, things in (("birds", BIRDS), ("metals", METALS)):
        folder = root / "files" / name
        write_own(folder, things, "museum")
        import_files(name, layout="beir", folder=folder, images=[folder / "images"], data=root)
    return root


def of(*sources: Share, **changes: object) -> Recipe:
    return tiny_recipe(data={"sources": sources}, **changes)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.9])
def test_shares_of_visits_are_exact(data: Path, share: float) -> None:
    recipe = mixed(of(Share("metals")), f"Birds:{share}", data)
    assert [each.source for each in recipe.data.sources] == ["metals", "birds"]
    mixture = Mixture(recipe, open_splits(recipe, data))
    visits = Counter(mixture.visit(n).share for n in range(2048))  # shuffled in parts of 1,024
    assert visits[1] == pytest.approx(2048 * share, abs=1)


def test_own_sources_keep_their_shares_among_each_other(data: Path) -> None:
    own = (Share("metals", repeat=3), Share("metals", split="test"))  # 30 and 5 visits an epoch
    recipe = mixed(of(*own), "birds:0.3", data)
    mixture = Mixture(recipe, open_splits(recipe, data))
    visits = Counter(mixture.visit(n).share for n in range(1024))
    assert visits[2] == pytest.approx(0.3 * 1024, abs=1)
    assert visits[0] / visits[1] == pytest.approx(6, rel=0.02)


def test_editions_that_are_imported_count(data: Path) -> None:
    root = data / "limited"

    def bring(name: str, limit: int | None = None) -> None:
        folder = data / "files" / name
        images = [folder / "images"]
        import_files(name, layout="beir", folder=folder, images=images, data=root, limit=limit)

    bring("metals")
    bring("birds", limit=4)
    recipe = mixed(of(Share("metals")), "birds:0.5", root)
    assert [each.edition for each in open_splits(recipe, root)] == ["metals", "birds-limit4"]
    bring("birds")
    with pytest.raises(UsageError, match=r"(?s)several.*--mix birds@birds:SHARE"):
        mixed(of(Share("metals")), "birds:0.5", root)
    recipe = mixed(of(Share("metals")), "birds@birds-limit4:0.5", root)
    assert [each.edition for each in open_splits(recipe, root)] == ["metals", "birds-limit4"]
    with pytest.raises(UsageError, match=r"--set data.sources\[1\].edition=birds"):
        open_splits(of(Share("metals"), Share("birds")), root)


@pytest.mark.parametrize(
    ("mix", "error", "words"),
    [
        ("birds", UsageError, "SOURCE:SHARE"),
        ("birds:1", UsageError, "between 0 and 1"),
        ("birds:nan", UsageError, "between 0 and 1"),
        (":0.5", UsageError, "SOURCE:SHARE"),
        ("brids:0.5", M2KRError, "birds"),
        ("metals:0.5", UsageError, "has its train split already"),
        ("m2kr:0.5", MissingError, "m2kr build okvqa"),
        ("okvqa:0.5", MissingError, "m2kr build okvqa"),
    ],
)
def test_what_cannot_be_mixed(data: Path, mix: str, error: type[M2KRError], words: str) -> None:
    with pytest.raises(error, match=words):
        recipe = mixed(of(Share("metals")), mix, data)
        open_splits(recipe, data)


def test_errors_name_the_share_and_what_to_set(data: Path, tmp_path: Path) -> None:
    write_own(tmp_path / "files", ("a",), "b")
    (tmp_path / "files" / "qrels" / "train.tsv").unlink()
    images = [tmp_path / "files" / "images"]
    import_files("lone", layout="beir", folder=tmp_path / "files", images=images, data=data)
    with pytest.raises(
        UsageError, match=r"(?s)data.sources\[0\]: lone.*--set data.sources\[0\].split"
    ):
        open_splits(of(Share("lone")), data)
    recipe = of(Share("metals"), validation={"sources": (Share("metals", split="valid"),)})
    with pytest.raises(UsageError, match=r"validation.sources\[0\]: metals.*'valid'"):
        Validator(recipe, data)


def test_a_runs_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MissingError, match=r"(?s)training run.*run/model"):
        build_model(Start(checkpoint=str(tmp_path / "run")))


def test_a_row_of_another_split_is_called_so(data: Path) -> None:
    listed = load("metals", "train", data=data).manifest["tables"]
    assert "judged in another split, or in none" in str(listed)
