"""Low-rank adapters (LoRA) of a model's linear layers, in files that peft reads and writes."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from m2kr import atomic
from m2kr.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.rag.training.reader_recipe import Lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # peft's, of the names of all weights


class LoraLinear(nn.Module):
    """A linear layer that doesn't change, and what is added to its output.

    Args:
        base: The layer.
        lora: Rank, scale and dropout.
        generator: Of A; B is 0.
        dtype: Of both.
    """

    def __init__(
        self, base: nn.Linear, lora: "Lora", generator: torch.Generator, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.base = base
        self._scale = lora.alpha / lora.r
        self.dropout = nn.Dropout(lora.dropout)
        self.lora_A = nn.Linear(base.in_features, lora.r, bias=False, device="meta")
        self.lora_B = nn.Linear(lora.r, base.out_features, bias=False, device="meta")
        first = torch.empty(lora.r, base.in_features)
        nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
        device = base.weight.device
        self.lora_A.weight = nn.Parameter(first.to(device, dtype))
        self.lora_B.weight = nn.Parameter(
            torch.zeros(base.out_features, lora.r, device=device, dtype=dtype)
        )

    @property
    def weight(self) -> "Tensor":
        """The layer's own, whose type T5 asks for."""
        return self.base.weight

    def forward(self, hidden: "Tensor") -> "Tensor":
        """The layer's output with the update."""
        out: Tensor = self.base(hidden)
        more: Tensor = self.dropout(hidden.to(self.lora_A.weight.dtype))
        more = (self.lora_B(self.lora_A(more)) * self._scale).to(out.dtype)
        return out + more


def add_lora(model: nn.Module, lora: "Lora", dtype: torch.dtype = torch.float32) -> list[str]:
    """Puts adapters on a model's layers; nothing else of it has gradients afterwards.

    Args:
        model: Changed.
        lora: Says which layers.
        dtype: Of the adapters.

    Returns:
        The names of the adapted layers.

    Raises:
        InputError: A target names no linear layer.
    """
    model.requires_grad_(requires_grad=False)
    linear = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    for target in lora.targets:
        if target not in kinds:
            raise InputError(
                f"the model has no linear layer '{target}'",
                where="lora.targets",
                expected=", ".join(kinds),
            )
    names = [name for name in linear if name.rpartition(".")[2] in lora.targets]
    generator = torch.Generator().manual_seed(lora.seed)
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LoraLinear(linear[name], lora, generator, dtype))
    return names


def adapter_state(model: nn.Module) -> "dict[str, Tensor]":
    """The adapters' weights, by peft's names."""
    return {
        f"{_PREFIX}{name}": parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


def save_adapter(model: nn.Module, folder: Path, lora: "Lora", **facts: Any) -> None:
    """Writes a folder that peft opens.

    Args:
        model: With adapters.
        folder: Made.
        lora: As they were added.
        facts: More for the configuration: ``task_type``, ``base_model_name_or_path``.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        **facts,
    }
    save_file(adapter_state(model), folder / WEIGHTS, {"format": "pt"})
    atomic.write_json(folder / CONFIG, config, alone=True)


def restore_adapter(model: nn.Module, folder: Path) -> None:
    """Puts the weights of `save_adapter` into a model that has the same adapters.

    Raises:
        InputError: They are of other layers or sizes.
    """
    from safetensors.torch import load_file

    weights = load_file(folder / WEIGHTS)
    own = {
        f"{_PREFIX}{name}": parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    shapes = {name: tuple(each.shape) for name, each in weights.items()}
    if shapes != {name: tuple(each.shape) for name, each in own.items()}:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        raise InputError(
            "the adapter is of another model or other layers",
            where=str(folder),
            expected=f"r {config.get('r')} on {config.get('target_modules')} of the same model",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
