"""Readers' recipes: the packaged ones, overrides, what they may not say."""

import re
from pathlib import Path

import pytest

from m2kr.errors import InputError, M2KRError, UsageError
from m2kr.rag.training.reader_recipe import Lora
from m2kr.rag.training.reader_recipe_file import (
    READER_RECIPES,
    load_reader_recipe,
    reader_recipe_names,
    trains_a_reader,
)
from m2kr.training.recipe_file import dump_recipe, recipe_fingerprint

_TAG = re.compile(r"  # (published \(.+\)|official code\b|ours: \S.*|ours$)")


@pytest.mark.parametrize("name", reader_recipe_names())
def test_every_value_of_a_packaged_recipe_says_whose_it_is(name: str, tmp_path: Path) -> None:
    lines = (READER_RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if re.match(r"\s*(- )?[a-z_]+: *[^#\s]", line)]
    assert len(values) > 20
    assert [line for line in values if not _TAG.search(line)] == []
    recipe = load_reader_recipe(name)
    assert trains_a_reader(name)
    assert recipe.name == name == f"reader-{recipe.data.source}"
    assert recipe.lora == Lora(r=8, alpha=32, dropout=0.1, targets=("q", "v"))
    assert (recipe.optimiser.lr, recipe.optimiser.weight_decay) == (1e-4, 0.05)
    assert (recipe.steps.batch, recipe.steps.accumulate) == (1, 16)
    assert (recipe.data.top, recipe.data.sampled) == (5, 3)
    own = tmp_path / "own.yaml"
    own.write_text(dump_recipe(recipe), encoding="utf-8")
    assert trains_a_reader(str(own))
    assert load_reader_recipe(own) == recipe


def test_what_is_no_readers_recipe(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("data: {sources: [okvqa]}", encoding="utf-8")
    assert not trains_a_reader(str(own))
    assert not trains_a_reader(str(tmp_path / "none.yaml"))
    assert not trains_a_reader("stage1")
    with pytest.raises(
        UsageError, match=r"(?s)no recipe 'reader-okvq'.*reader-evqa.*'reader-okvqa'"
    ):
        load_reader_recipe("reader-okvq")


WRONG = {
    "lora.r": ("0", "lora.r is 0"),
    "lora.targets": ("", "lora.targets names no layer"),
    "lora.dropout": ("1", "lora.dropout is 1"),
    "lora.rank": ("8", "no key lora.rank"),
    "data.sampled": ("6", "data.sampled is 6.*data.top 5"),
    "data.source": ("", "data.source is empty"),
    "data.input_tokens": ("3", "data.input_tokens is 3"),
    "data.sources": ("okvqa", "no key data.sources.*data.source"),
    "loss.kind": ("token", "did you mean tokens"),
    "steps.chunk": ("2", "steps.chunk is not for readers"),
    "steps.compile": ("true", "steps.compile is not for readers"),
    "steps.parallel": ("fsdp", "steps.parallel is not for readers"),
    "steps.accumulate": ("0", "steps.accumulate is 0"),
    "optimiser.mapping_lr": ("1", "optimiser.mapping_lr is not for readers"),
    "optimiser.warmup": ("9999", "optimiser.warmup 9,999 is longer"),
    "validation.run": ("x.trec", "validation.run is given"),
    "validation.split": ("valid", "one of data.run and"),
    "validation.patience": ("0", "validation.patience is 0"),
    "negatives.uniform": ("1", "no key negatives"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_an_override_may_not_say(key: str) -> None:
    value, said = WRONG[key]
    with pytest.raises(UsageError, match=f"(?s)--set {re.escape(key)}={value}.*{said}"):
        load_reader_recipe("reader-okvqa", {key: value})


def test_two_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="no passages to sum over"):
        load_reader_recipe("reader-okvqa", {"data.run": "", "loss.kind": "marginal"})
    with pytest.raises(M2KRError, match=r"(?s)which is trained on"):
        load_reader_recipe(
            "reader-okvqa", {"validation.split": "train", "validation.run": "x.trec"}
        )
    own = tmp_path / "own.yaml"
    own.write_text("reader: {modle: x}\ndata: {source: okvqa}", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"(?s)own.yaml: there is no key reader.modle.*reader.model"
    ):
        load_reader_recipe(own)


def test_what_the_fingerprint_counts() -> None:
    first = recipe_fingerprint(load_reader_recipe("reader-okvqa"))
    counted = {"lora.r": "4", "data.run": "b", "validation.questions": "9", "loss.kind": "marginal"}
    others = {"name": "x", "saving.keep": "5", "steps.checkpoint_activations": "true"}
    for key, value in (counted | others).items():
        same = recipe_fingerprint(load_reader_recipe("reader-okvqa", {key: value})) == first
        assert same == (key in others), key
