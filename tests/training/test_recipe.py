"""Recipes: what files and overrides say, what they may not say, and what their fingerprint counts."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.training.recipe import Data, Optimiser, Recipe, Share, Steps
from m2kr.training.recipe_checks import check_recipe
from m2kr.training.recipe_file import (
    FOLDER,
    dump_recipe,
    load_recipe,
    recipe_fingerprint,
    recipe_names,
)
from m2kr.training.recipe_values import all_keys

_TAG = re.compile(r"  # (published \(.+\)|official code\b|ours: \S.*)")


def file_of(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_value_of_a_packaged_recipe_says_whose_it_is(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if re.match(r"\s*(- )?[a-z_]+: *[^#\s]", line)]
    assert len(values) > 15
    assert [line for line in values if not _TAG.search(line)] == []
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_recipe(name, {"steps.seed": "7"}).steps.seed == 7


def test_the_stages_train_what_the_paper_trains() -> None:
    stages = {name: load_recipe(name) for name in recipe_names()}
    assert stages["stage1"].trained == ("vision_projection", "mapping")
    assert not stages["stage1"].start.text_rows
    assert not stages["stage0"].start.image_rows
    assert all("vision_encoder" not in each.trained for each in stages.values())
    whole = stages["stage3"].data.sources
    assert len(whole) == 9
    assert {each.source: each.take for each in whole if each.take} == {"infoseek": 100_000}
    assert [each.source for each in stages["stage2"].data.sources] == ["evqa"]


def test_a_file_is_read_by_the_types_of_its_values(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        """
stage: 010
trained: mapping, text_linear
text_layers:
data:
  sources:
    - okvqa
    - {source: evqa, repeat: 1_0, take: null, tasks: [IQ2T]}
optimiser: {lr: 1e-5, betas: [0.9, 1.e-1], clip: 2}
steps: {chunk: 4, compile: TRUE}
validation: {sources: "okvqa,mini"}
saving:
""",
    )
    recipe = load_recipe(path)
    assert (recipe.name, recipe.stage) == ("own", "010")
    assert recipe.trained == ("mapping", "text_linear")
    assert recipe.data.sources == (Share("okvqa"), Share("evqa", repeat=10, tasks=("IQ2T",)))
    assert recipe.optimiser == Optimiser(lr=1e-5, betas=(0.9, 0.1), clip=2.0)
    assert recipe.steps == Steps(chunk=4, compile=True)
    assert [each.split for each in recipe.validation.sources] == ["valid", "valid"]
    assert load_recipe(file_of(tmp_path, dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("optimiser.lr", "1e-3", ("optimiser", "lr", 1e-3)),
        ("steps.precision", "float64", ("steps", "precision", "float64")),
        ("start.text_rows", "false", ("start", "text_rows", False)),
        ("optimiser.clip", "null", ("optimiser", "clip", None)),
        ("data.sources", "mini", ("data", "sources", (Share("mini"),))),
        (
            "data.sources",
            "[{source: mini, take: 5}]",
            ("data", "sources", (Share("mini", take=5),)),
        ),
        ("start.checkpoint", "a: b", None),
    ],
)
def test_an_override_sets_one_value(key: str, value: str, expected: Any) -> None:
    if expected is None:
        with pytest.raises(M2KRError, match=re.escape(key)):
            load_recipe("stage1", {key: value})
        return
    section, name, right = expected
    made = load_recipe("stage1", {key: value})
    assert getattr(getattr(made, section), name) == right
    assert dataclasses.replace(made, **{section: getattr(load_recipe("stage1"), section)}) == (
        load_recipe("stage1")
    )


def test_sources_are_named_in_overrides() -> None:
    made = load_recipe("stage3", {"data.sources.E-VQA.repeat": "3", "data.sources[0].take": "9"})
    assert made.data.sources[-1] == Share("evqa", repeat=3)
    assert made.data.sources[0] == Share("wit", take=9)
    # Names alone keep what the recipe says of them.
    made = load_recipe("stage3", {"data.sources": "okvqa,mini"})
    assert made.data.sources == (Share("okvqa", repeat=10), Share("mini"))
    weights = {"data.sources.okvqa.weight": "2", "data.sources.okvqa.repeat": "1"}
    made = load_recipe("stage3", {"data.sources": "okvqa", **weights})
    assert made.data.sources == (Share("okvqa", weight=2.0),)


def test_a_checkpoint_takes_the_place_of_a_new_models_sizes() -> None:
    made = load_recipe("stage1", {"start.checkpoint": "embedded"})
    assert (made.start.vision, made.start.vision_weights, made.start.text_weights) == (None,) * 3
    with pytest.raises(UsageError, match=r"--set start.vision=vit-l.*the weights are"):
        load_recipe("stage1", {"start.checkpoint": "embedded", "start.vision": "vit-l"})


WRONG = {
    # keys
    "data: {sources: [a, {source: b, wieght: 1}]}": r"no key data.sources\[1\].wieght.*sources\[1\].weight",
    "lr: 1": r"no key lr.*did you mean optimiser.lr",
    "optimizer: {lr: 1}": r"no key optimizer.*did you mean optimiser",
    "1: 2": "no key 1",
    # types
    "steps: {steps: 1.5}": r"steps.steps is 1.5.*a whole number",
    "steps: {batch: [1]}": r"steps.batch is .*a whole number",
    "steps: 3": r"steps is 3.*a section",
    "steps: {compile: yes}": r"steps.compile is yes.*true or false",
    "optimiser: {lr: nan}": r"optimiser.lr is nan.*a number",
    "optimiser: {betas: [0.9]}": r"optimiser.betas is .*2 values",
    "optimiser: {schedule: cosin}": r"is cosin.*did you mean cosine",
    "data: {sources: {a: 1}}": r"data.sources is .*a list",
    "data: {sources: [{weight: 1}]}": r"data.sources\[0\].source is missing",
    "start: {vision: vit-xl}": r"start.vision is vit-xl.*vit-b, vit-l",
    # ranges
    "name: a/b": "name is 'a/b'",
    "steps: {batch: 0}": r"steps.batch is 0.*1 or more",
    "optimiser: {lr: 0}": r"optimiser.lr is 0.*more than 0",
    "start: {dropout: 1}": r"start.dropout is 1.*less than 1",
    "optimiser: {betas: [0.9, 1.0]}": r"optimiser.betas is 1",
    "distillation: {weight: 1.5, kind: kl, file: f}": "distillation.weight is 1.5",
    "data: {sources: [{source: a, take: 0}]}": r"take \(a\) is 0",
    "data: {sources: [{source: a, weight: -1}]}": r"weight \(a\) is -1",
    "data: {sources: [{source: a, tasks: [T2I]}]}": "holds 'T2I'",
    # contradictions
    "data: {sources: []}": "data.sources is empty",
    "data: {sources: [a, {source: b, weight: 1}]}": "but a has none",
    "data: {sources: [{source: a, weight: 1, repeat: 2}]}": "both a weight and repeat",
    "data: {sources: [a, a]}": "the same rows",
    "trained: []": "trained is empty",
    "trained: [mappings]": "did you mean 'mapping'",
    "trained: [mapping, mapping]": "a part twice",
    "{trained: [mapping], text_layers: 2}": "text_layers is 2, but text_encoder is not trained",
    "{trained: [text_linear], optimiser: {mapping_lr: 1}}": "mapping_lr is given",
    "steps: {batch: 4, chunk: 5}": "chunk 5 is more than",
    "{steps: {batch: 8}, negatives: {groups: 3}}": "no multiple of negatives.groups 3",
    "negatives: {groups: 2, across_ranks: true}": "contradicts across_ranks",
    "negatives: {in_batch: false, across_ranks: true}": "needs in_batch",
    "negatives: {uniform: 0, in_batch: false}": "told from nothing",
    "{negatives: {uniform: 0}, steps: {batch: 1}}": "alone in its batch",
    "negatives: {mined: 2}": "there is no mined file",
    "negatives: {file: f.parquet}": "negatives.mined is 0",
    "distillation: {kind: kl}": "no file of a teacher",
    "distillation: {file: f}": "kind is none",
    "{distillation: {kind: kl, file: f}, negatives: {uniform: 0}}": "only its positive",
    "{start: {text_rows: false}, trained: [text_encoder]}": "nothing that makes image rows",
    "start: {image_rows: false}": "has no part in queries",
    "{start: {image_rows: false, text_rows: false}, trained: [text_linear]}": "no rows",
    "{start: {text_rows: false}, data: {sources: [{source: a, tasks: [Q2T]}]}}": "text only",
    "start: {checkpoint: a, text: base}": "start.text is base, but the weights are",
    "optimiser: {warmup: 5000}": "longer than the training",
    "validation: {every: 5}": "validation.sources is empty",
    "validation: {metric: recall@5}": "two things",
    "{validation: {metric: loss, every: 1, sources: a}}": "loss_queries is 0",
    # files
    "- a": "no mapping",
    "a: [": "no YAML",
    "steps: {batch: 1, batch: 2}": "given twice",
    "": "no mapping",
}


@pytest.mark.parametrize(("text", "why"), WRONG.items())
def test_what_a_recipe_may_not_say(text: str, why: str, tmp_path: Path) -> None:
    if text and text != "- a" and "data:" not in text:
        data = "data: {sources: mini}"
        text = "{" + data + ", " + text[1:] if text.startswith("{") else f"{text}\n{data}"
    path = file_of(tmp_path, text)
    with pytest.raises(InputError, match=f"(?s)^{re.escape(str(path))}: .*{why}"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("optimiser.lr", "fast", "optimiser.lr is fast"),
        ("optimiser.rl", "1", r"no key optimiser.rl.*did you mean optimiser.lr"),
        ("batch", "1", r"no key batch.*did you mean steps.batch"),
        ("steps", "20", r"steps is a section.*steps.steps"),
        ("optimiser", "{lr: 1}", r"optimiser is a section.*optimiser.lr"),
        ("optimiser.lr.x", "1", "is one value"),
        ("data.sources.okvqq.weight", "1", r"no source 'okvqq'.*did you mean 'okvqa'"),
        ("data.sources[77].weight", "1", "no source '77'"),
        ("data.sources.okvqa", "1", "is a source of the mixture"),
        ("data.sources.okvqa.wight", "1", r"no key data.sources\[6\].wight.*weight"),
        ("steps.batch", "[", "no YAML"),
        ("", "1", "no key"),
        ("steps.steps", "50", "warmup 100 is longer"),
        ("data.sources.okvqa.weight", "2", "some of data.sources have a weight"),
    ],
)
def test_an_override_that_is_wrong_is_named(key: str, value: str, why: str) -> None:
    with pytest.raises(
        M2KRError, match=f"(?s)^--set {re.escape(key)}={re.escape(value)}.*{why}"
    ) as e:
        load_recipe("stage3", {key: value})
    assert e.value.exit_code == (1 if value == "[" else 2)


def test_recipes_are_named(tmp_path: Path) -> None:
    assert load_recipe("STAGE_3_DISTILLED".replace("E_3", "E3")).name == "stage3-distilled"
    with pytest.raises(UsageError, match=r"(?s)no recipe 'stag1'.*did you mean 'stage1'"):
        load_recipe("stag1")
    with pytest.raises(MissingError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")


def test_a_recipe_made_in_python_is_checked_by_name() -> None:
    with pytest.raises(InputError, match=r"^mine: data.sources is empty"):
        check_recipe(Recipe("mine"))


def test_the_fingerprint_counts_what_changes_the_result() -> None:
    base = load_recipe("stage3")
    same = {
        "name": "other",
        "stage": "x",
        "validation.every": "7",
        "saving.keep": "9",
        "steps.parallel": "fsdp",
        "steps.compile": "true",
        "steps.checkpoint_activations": "true",
    }
    assert recipe_fingerprint(load_recipe("stage3", same)) == recipe_fingerprint(base)
    whole = Recipe("r", data=Data((Share("a"),)), optimiser=Optimiser(clip=2))
    again = dataclasses.replace(whole, optimiser=Optimiser(clip=2.0))
    assert recipe_fingerprint(whole) == recipe_fingerprint(again)
    other = {
        "start.seed": "1",
        "trained": "mapping",
        "data.instructions": "none",
        "negatives.uniform": "3",
        "optimiser.lr": "2e-5",
        "steps.batch": "4",
        "steps.chunk": "2",
        "data.sources.okvqa.repeat": "2",
        "distillation.temperature": "2",
    }
    made = [recipe_fingerprint(load_recipe("stage3", {k: v})) for k, v in other.items()]
    assert len({recipe_fingerprint(base), *made}) == len(other) + 1


@settings(max_examples=25)
@given(st.data())
def test_whatever_is_set_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    keys = [key.replace("data.sources.", "data.sources.wit.") for key in all_keys()]
    key = data.draw(st.sampled_from([each for each in keys if "validation.sources." not in each]))
    value = data.draw(
        st.one_of(st.sampled_from(["", "0", "1", "2", "0.5", "true", "null", "a,b"]), st.text())
    )
    try:
        made = load_recipe("stage3", {key: value})
    except M2KRError as error:
        assert str(error).strip()
        assert error.where
    else:
        assert isinstance(made, Recipe)
