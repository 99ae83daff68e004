"""AdamW: its groups, learning rates, its state by the parameters' names, clipping."""

import math
from typing import TYPE_CHECKING, Any

import torch

from m2kr.training.training_task import LoopRecipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from m2kr.training.parallel import Team
    from m2kr.training.recipe import Optimiser


def make_optimiser(
    groups: "Mapping[str, list[nn.Parameter]]", recipe: LoopRecipe
) -> torch.optim.AdamW:
    """AdamW over groups of parameters, each with its peak learning rate as ``peak``.

    Args:
        groups: Of `set_trained`.
        recipe: Its ``optimiser`` is read.
    """
    values = recipe.optimiser
    made = []
    for name, parameters in groups.items():
        mapping = values.mapping_lr if name.startswith("mapping") else None
        peak = values.lr if mapping is None else mapping
        decay = 0.0 if name.endswith("undecayed") else values.weight_decay
        if parameters:
            made.append({"name": name, "params": parameters, "peak": peak, "weight_decay": decay})
    cut_up = any(hasattr(each, "full_tensor") for own in groups.values() for each in own)
    return torch.optim.AdamW(
        made, lr=values.lr, betas=values.betas, eps=values.eps, fused=None if cut_up else True
    )


def set_rates(optimiser: torch.optim.Optimizer, recipe: LoopRecipe, step: int) -> dict[str, float]:
    """Sets a step's learning rates; gives ``lr``, and ``mapping_lr`` where the recipe has one.

    Args:
        optimiser: Of `make_optimiser`.
        recipe: The same.
        step: Steps done before.
    """
    values = recipe.optimiser
    factor = _lr_factor(values, step, recipe.steps.steps)
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
    rates = {"lr": values.lr * factor}
    if values.mapping_lr is not None:
        rates["mapping_lr"] = values.mapping_lr * factor
    return rates


def optimiser_state(
    optimiser: torch.optim.Optimizer, model: "nn.Module", team: "Team"
) -> "dict[str, dict[str, Tensor | None]]":
    """What it keeps of each parameter, whole and on the CPU, by the parameter's name.

    All processes call it; the values are rank 0's alone.
    """
    return {
        name: {key: team.whole(value) for key, value in optimiser.state[parameter].items()}
        for name, parameter in model.named_parameters()
        if parameter in optimiser.state
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer,
    model: "nn.Module",
    team: "Team",
    state: "Mapping[str, Mapping[str, Tensor]]",
) -> None:
    """Puts back what `optimiser_state` gave."""
    on_device = optimiser.defaults["fused"]  # where the number of steps is kept
    for name, parameter in model.named_parameters():
        for key, value in state.get(name, {}).items():
            if key == "step":
                put = value.to(team.device) if on_device else value
            else:
                put = team.like(value, parameter)
            optimiser.state[parameter][key] = put


def clip_gradients(parameters: "list[nn.Parameter]", most: float | None) -> float:
    """The norm of all gradients together, which are scaled down where it exceeds ``most``.

    Args:
        parameters: Those that are trained.
        most: No limit if None.
    """
    if most is not None:
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, most)
    else:
        norms = [
            torch.linalg.vector_norm(each.grad) for each in parameters if each.grad is not None
        ]
        norm = torch.linalg.vector_norm(torch.stack(norms))
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _lr_factor(optimiser: "Optimiser", step: int, steps: int) -> float:
    """What a step's learning rate is of the peak.

    The warm-up rises linearly and reaches the peak with its last step; after it, ``linear`` and
    ``cosine`` fall so that the step after the last would have 0.

    Args:
        optimiser: The schedule and its warm-up.
        step: Steps done before this one.
        steps: Of the whole run.
    """
    if step < optimiser.warmup:
        return (step + 1) / optimiser.warmup
    if optimiser.schedule == "constant":
        return 1.0
    part = (step - optimiser.warmup) / max(1, steps - optimiser.warmup)
    if optimiser.schedule == "linear":
        return max(0.0, 1 - part)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
