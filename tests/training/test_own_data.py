"""One's own data: five commands from files to a comparison, and other data mixed in against forgetting."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from m2kr.building.userdata.importer import import_files
from m2kr.errors import M2KRError, MissingError, UsageError
from m2kr.training.mix import mixed
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.recipe import Recipe, Share
from tests.conftest import new_cli
from tests.support.own_folder import write_own
from tests.support.tiny_training import CHECKPOINT, tiny_recipe

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


@pytest.mark.slow
def test_five_commands_from_files_to_a_comparison(data: Path, tmp_path: Path) -> None:
    m2kr = new_cli("m2kr.training.loop", "m2kr.retrievers.preflmr", "transformers")
    shutil.copytree(data / "birds", tmp_path / "data" / "birds")
    shutil.copytree(data / "files" / "metals", tmp_path / "metals")
    shutil.copytree(CHECKPOINT, tmp_path / "start")
    root = ["--data", "data"]

    m2kr(
        "import",
        "metals",
        "metals",
        "--from",
        "beir",
        "--images",
        "metals/images",
        *root,
        cwd=tmp_path,
    )
    short = (
        "steps.steps=3",
        "optimiser.warmup=1",
        "steps.batch=4",
        "steps.accumulate=1",
        "data.passage_tokens=24",
    )
    changed = [word for value in short for word in ("--set", value)]
    done = m2kr(
        *(
            "train",
            "fine-tuning",
            "--set",
            "start.checkpoint=start",
            "--set",
            "data.sources=metals",
        ),
        *("--mix", "birds:0.5", "--json", *changed, *root),
        cwd=tmp_path,
    )
    trained = json.loads(done.stdout)
    for name, checkpoint in (("before", "start"), ("after", trained["checkpoint"])):
        m2kr(
            *("eval", "metals,birds", "-r", "preflmr", "--set", f"checkpoint={checkpoint}"),
            *("--label", name, "--out", "results", *root),
            cwd=tmp_path,
        )
    results = sorted((tmp_path / "results").glob("*.json"))
    done = m2kr("compare", *results, "--json", *root, cwd=tmp_path)

    assert len(trained["losses"]) == 3
    facts = json.loads((tmp_path / trained["folder"] / "run.json").read_text(encoding="utf-8"))
    counts = [each["visits_per_epoch"] for each in facts["data_facts"]["sources"]]
    assert counts[0] == pytest.approx(counts[1], abs=1)
    assert len(results) == 4
    assert all(word in done.stdout for word in ("metals/test", "birds/test", "before", "after"))
