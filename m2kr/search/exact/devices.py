"""What a ``device`` argument names."""

from m2kr.errors import UsageError


def resolve(text: str) -> list[str]:
    """The devices of a comma list, ``auto`` resolved: CUDA if there is one.

    Raises:
        UsageError: one of them isn't here.
    """
    return [_resolved(name.strip()) for name in text.split(",")]


def _resolved(name: str) -> str:
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if there else "cpu"
    try:
        found = torch.device(name)
        right = found.type == "cpu" or (found.type == "cuda" and (found.index or 0) < there)
    except RuntimeError:
        right = False
    if not right:
        raise UsageError(
            f"there is no device '{name}' here",
            expected="auto, cpu, a CUDA device such as cuda:0, or several with commas between",
        )
    return name
