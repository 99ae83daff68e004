"""Checks of what a model is given, and the joining of text rows with image rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from m2kr.errors import InputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.model.configuration import VisionSettings

Switch = bool | Sequence[bool]


def check_pixels(images: "Tensor", vision: "VisionSettings") -> None:
    """Raises an `InputError` unless these are (B x [images x] channels x size x size)."""
    shape = (vision.num_channels, vision.image_size, vision.image_size)
    if images.dim() not in (4, 5) or images.shape[-3:] != shape:
        raise InputError(
            f"pixel_values have the shape {tuple(images.shape)}",
            expected=f"(B, {shape[0]}, {shape[1]}, {shape[2]}) or (B, images, …)",
        )


def check_features(features: "Tensor", vision: "VisionSettings") -> None:
    """Raises an `InputError` unless these are (B x [images x] hidden)."""
    if features.dim() not in (2, 3) or features.shape[-1] != vision.hidden_size:
        raise InputError(
            f"image_features have the shape {tuple(features.shape)}",
            expected=f"(B, {vision.hidden_size}) or (B, images, {vision.hidden_size})",
        )


def one_image(patches: "Tensor", queries: int) -> "Tensor":
    """Patches as (B x patches x hidden); the mapping network is not defined for several images.

    Raises:
        InputError: There are several images a query, or none for some.
    """
    if patches.dim() == 4 and patches.shape[1] == 1:
        patches = patches.squeeze(1)
    if patches.dim() != 3 or len(patches) != queries:
        raise InputError(
            f"patch_features have the shape {tuple(patches.shape)}",
            expected=f"one image a query, ({queries}, patches, hidden): the mapping network is not "
            "defined for several",
        )
    return patches


def switch(given: Switch | None, configured: bool) -> bool | list[bool]:
    """What a call says, or else the config."""
    if given is None:
        return configured
    return given if isinstance(given, bool) else [bool(each) for each in given]


def join_rows(*blocks: "tuple[str, Tensor | None, bool | list[bool]]") -> "Tensor":
    """The blocks that are switched on, side by side; lists of switches zero single samples.

    Args:
        blocks: Name, rows (B x rows x dim) if there is input for them, and switch.

    Raises:
        InputError: Rows are asked for that have no input, or numbers of samples differ.
        UsageError: Lists are mixed with single switches, or nothing is asked for.
    """
    lists = [isinstance(switch, list) for _, _, switch in blocks]
    if any(lists) and not all(lists):
        raise UsageError("switches per sample must be given for text and vision alike, or for none")
    parts = []
    for name, rows, switch in blocks:
        if not switch:
            continue
        if rows is None:
            lacking = "pixel_values" if name == "vision" else "input_ids and attention_mask"
            raise InputError(
                f"the {name} part is asked for, but its input is missing",
                expected=f"{lacking}, or concat_output_from_{name}_encoder=False",
            )
        if isinstance(switch, list):
            if len(switch) != len(rows):
                raise InputError(f"{len(switch)} switches for {len(rows)} samples")
            rows = rows * torch.tensor(switch, device=rows.device)[:, None, None]
        parts.append(rows)
    if not parts:
        raise UsageError("neither text nor vision is asked for")
    if len({len(each) for each in parts}) > 1:
        raise InputError("texts and images differ in number")
    return torch.cat(parts, dim=1)


def unit(rows: "Tensor") -> "Tensor":
    """Rows of length 1; zero rows stay zero.

    Computed in float32 at least: in half precision the guard against division by 0 would itself be 0.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    return F.normalize(rows.to(wide), dim=-1).to(rows.dtype)
