"""A tiny model in float64 and random batches of it."""

import dataclasses
from functools import cache
from pathlib import Path

import torch

from m2kr.preflmr import PreFLMR
from m2kr.training.batch import TrainingBatch
from m2kr.training.recipe import Data, Distillation, Negatives, Recipe, Start, Steps
from m2kr.training.trained_parts import set_trained

GOLDEN = Path(__file__).parents[1] / "golden"
PARTS = ("text_encoder", "text_linear", "vision_projection", "mapping")


@cache
def _loaded(name: str) -> PreFLMR:
    return PreFLMR.from_pretrained(GOLDEN / name)


def tiny(recipe: Recipe, name: str = "tiny_preflmr") -> PreFLMR:
    """The golden checkpoint's weights in a model of its own, without dropout."""
    loaded = _loaded(name)
    model = PreFLMR(loaded.config, loaded.query_tokenizer, loaded.context_tokenizer)
    model.load_state_dict(loaded.state_dict())
    set_trained(model, recipe)
    return model.double().eval()


def recipe(
    *,
    negatives: Negatives | None = None,
    distillation: Distillation | None = None,
    trained: tuple[str, ...] = PARTS,
    start: Start | None = None,
    data: Data | None = None,
    **steps: object,
) -> Recipe:
    return Recipe(
        "tiny",
        start=start or Start(),
        trained=trained,
        data=data or Data(),
        negatives=negatives or Negatives(),
        distillation=distillation or Distillation(),
        steps=Steps(**steps),  # type: ignore[arg-type]
    )


def batch(queries: int = 4, each: int = 3, *, length: int = 12, seed: int = 0) -> TrainingBatch:
    """A batch of B queries with 1+n passages, of which some are right for other queries, too."""
    draw = torch.Generator().manual_seed(seed)
    passages = queries * each

    def texts(count: int, tokens: int, marker: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(1100, 2900, (count, tokens), generator=draw)
        ids[:, :2] = torch.tensor([101, marker])
        lengths = torch.randint(3, tokens + 1, (count, 1), generator=draw)
        attended = torch.arange(tokens) < lengths
        return ids * attended, attended.long()

    query_ids, query_attended = texts(queries, 8, 1)
    query_ids[:, 3] = 1024  # the colon that ends an instruction
    passage_ids, passage_attended = texts(passages, length, 2)
    # Later queries' passages are longer, so that ranks differ in length.
    passage_ids[: passages // 2, length - 3 :] = 0
    passage_attended[: passages // 2, length - 3 :] = 0
    keys = torch.randint(0, passages, (passages,), generator=draw)
    right = torch.stack([keys[::each], torch.randint(0, passages, (queries,), generator=draw)], 1)
    teacher = torch.randn(queries, each, generator=draw)
    teacher[torch.rand(queries, each, generator=draw) < 0.3] = torch.nan
    return TrainingBatch(
        query_ids,
        query_attended,
        passage_ids,
        passage_attended,
        keys,
        right,
        image_features=torch.randn(queries, 32, generator=draw),
        patch_features=torch.randn(queries, 16, 32, generator=draw),
        teacher_scores=teacher,
    )


def trimmed(whole: TrainingBatch) -> TrainingBatch:
    """As the loader would make it: no longer than its longest passage."""
    longest = int(whole.passage_attended.sum(1).max())
    return dataclasses.replace(
        whole,
        passage_ids=whole.passage_ids[:, :longest],
        passage_attended=whole.passage_attended[:, :longest],
    )


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients that there are, by name; the model has none afterwards."""
    found = {
        name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None
    }
    model.zero_grad()
    return found


def assert_equal(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], rtol: float = 1e-12
) -> None:
    """Within ``rtol`` of the largest gradient."""
    assert found.keys() == wanted.keys()
    largest = max(float(each.abs().max()) for each in wanted.values())
    assert largest > 0
    for name, each in wanted.items():
        assert float((found[name] - each).abs().max()) <= rtol * largest, name
