"""transformers' Auto classes open official checkpoints with our classes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from m2kr.errors import UsageError
from m2kr.preflmr import ContextTokenizer, PreFLMR, QueryTokenizer, register
from m2kr.preflmr.auto_classes import FLMRModelForRetrieval


@pytest.fixture(autouse=True)
def registered() -> None:
    register()
    register()


@pytest.mark.parametrize("name", ["tiny_preflmr", "tiny_flmr", "tiny_separate"])
def test_auto_model(golden: Path, models: dict[str, PreFLMR], name: str) -> None:
    model = AutoModel.from_pretrained(golden / name)
    assert isinstance(model, PreFLMR)
    assert model.config == models[name].config
    wanted = models[name].state_dict()
    assert all(torch.equal(each, wanted[key]) for key, each in model.state_dict().items())


def test_auto_model_passes_options_on(golden: Path) -> None:
    model = AutoModel.from_pretrained(
        str(golden / "tiny_flmr"), dtype="bfloat16", attn_implementation="eager"
    )
    assert model.dtype == torch.bfloat16
    with pytest.raises(UsageError, match="dtype"):
        FLMRModelForRetrieval.from_pretrained(golden / "tiny_flmr", dtype="nonsense")


def test_auto_config(golden: Path, models: dict[str, PreFLMR]) -> None:
    config = AutoConfig.from_pretrained(golden / "tiny_flmr")
    assert config.model_type == "flmr"
    assert config.settings() == models["tiny_flmr"].config


@pytest.mark.parametrize(
    ("subfolder", "kind"),
    [("query_tokenizer", QueryTokenizer), ("context_tokenizer", ContextTokenizer)],
)
def test_auto_tokenizer(golden: Path, subfolder: str, kind: type) -> None:
    folder = golden / "tiny_separate"
    tokenizer = AutoTokenizer.from_pretrained(folder, subfolder=subfolder)
    assert isinstance(tokenizer, kind)
    ours = kind.from_pretrained(folder)  # type: ignore[attr-defined]
    assert torch.equal(tokenizer(["a text"])["input_ids"], ours(["a text"])["input_ids"])
    with_config = AutoTokenizer.from_pretrained(
        folder, subfolder=subfolder, config=AutoConfig.from_pretrained(folder)
    )
    assert isinstance(with_config, kind)
