"""How the image files of shared sources are named."""

import re
from typing import Any, Literal

from m2kr.building.fetch.assets import ImageArchive

COCO_NOTE = (
    "COCO 2014: http://images.cocodataset.org/zips/{0}.zip; point --images at the zip or at the "
    "folder that holds {0}/"
)


def coco_path(subset: Literal["train2014", "val2014"], image_id: int) -> str:
    """Path of a COCO image below the folder that its zip unpacks to."""
    return f"{subset}/COCO_{subset}_{image_id:012d}.jpg"


def landmark_path(image_id: str) -> str:
    """Path of a Google Landmarks v2 training image, a 16-digit hex id, as the release has it."""
    return f"google-landmark/train/{'/'.join(image_id[:3])}/{image_id}.jpg"


def inat_path(file_name: str) -> str:
    """Path of an iNaturalist 2021 image, as the release has it; ``file_name`` is upstream's."""
    return f"inat/{file_name}"


def flat_oven_path(image_id: str) -> str:
    """Path of an OVEN image in Infoseek's flat folder. Upstream's ending may also be .JPEG or .png."""
    return f"{image_id}.jpg"


def oven_path(image_id: str, ending: str = ".jpg") -> str | None:
    """Path of an OVEN image as the release has it: ``01/oven_01963180.jpg``; None if it is no id of one.

    The folder is the first two of the eight digits.
    """
    match = re.fullmatch(r"oven_([0-9]{2})[0-9]{6}", image_id)
    return match and f"{match[1]}/{image_id}{ending}"


# How OVEN asks about the images that it has of ImageNet; the others have questions of other forms.
_OF_IMAGENET = re.compile(
    r"what is (the main content of this image|the main object|shown in the photo|"
    r"the category of this .+|this (?!place\?|.* called\?).+)\?"
    r"|what (.+ is presented in the image|kind of .+ is this)\?"
    r"|which (type of .+ is depicted|category of .+ is shown) in the image\?"
)


def oven_ending(question: str) -> str:
    """The ending of an OVEN image's file, which the annotations don't have, told by its question."""
    return ".JPEG" if _OF_IMAGENET.fullmatch(question) else ".jpg"


def flat_path(value: Any, folder: str = "") -> str | None:
    """Path of an image in a flat folder, from upstream's path of it; None if that is no file there.

    Args:
        value: What upstream has for a path.
        folder: The folder, if upstream puts it before.
    """
    name = value.removeprefix(f"{folder}/") if isinstance(value, str) else ""
    return name if re.fullmatch(r"(?!\.{1,2}$)[^/\\\x00-\x1f]+", name) else None


def hub(path: str, repo: str = "BByrneLab/M2KR_Images", revision: str = "main") -> str:
    """Address of a file of the authors' images, or of another data set on the hub."""
    return f"hub:{repo}@{revision}/{path}"


def coco_archive(subset: Literal["train2014", "val2014"]) -> ImageArchive:
    """COCO's own zip; the authors' copies are mirrors of it."""
    folders = ("OKVQA", "LLAVA") if subset == "train2014" else ("OKVQA",)
    return ImageArchive(
        f"coco/{subset}.zip",
        files=(
            (
                *(hub(f"{folder}/{subset}.zip") for folder in folders),
                f"http://images.cocodataset.org/zips/{subset}.zip",
            ),
        ),
        kind="zip",
        about=13_510_573_713 if subset == "train2014" else 6_645_013_297,
        holds=f"{subset}/.*",
    )


WIT_IMAGES = ImageArchive(
    "wit/WIT_images_fromzip_converted_2.zip",
    files=tuple((hub(f"WIT/WIT_images_fromzip_converted_2.zip.{n:03d}"),) for n in range(1, 6)),
    kind="zip",
    about=199_000_000_000,
)

_OVEN_TARS = {"01": 25.5, "02": 21.8, "03": 21.2, "04": 30.1}
# By the folder before the name, or by the name's first two digits where there is none.
_HOLDS = r"{0}/.+|oven_{0}\d+\.\w+"
# Zips are cut in pieces on the hub; the last may have more than the two that are known.
OVEN_IMAGES = (
    ImageArchive(
        "oven/shard00.zip",
        files=tuple((hub(f"OVEN/shard00.zip.{n:03d}"),) for n in (1, 2)),
        kind="zip",
        about=75_900_000_000,
        holds=_HOLDS.format("00"),
    ),
    *(
        ImageArchive(
            f"oven/shard{two}.tar",
            files=((hub(f"OVEN/shard{two}.tar"),),),
            kind="tar",
            about=int(size * 1e9),
            holds=_HOLDS.format(two),
        )
        for two, size in _OVEN_TARS.items()
    ),
    ImageArchive(
        "oven/shard05_2.zip",
        files=tuple((hub(f"OVEN/shard05_2.zip.{n:03d}"),) for n in (1, 2)),
        kind="zip",
        about=83_800_000_000,
        holds=_HOLDS.format("05"),
    ),
)
_ENDINGS = (".JPEG", ".png", ".jpeg", ".JPG")
# OVEN has a folder before the name, Infoseek in the release has none.
OVEN_NAMES = (
    *(f"{{stem}}{ending}" for ending in _ENDINGS),
    *(f"{form}{ending}" for form in ("{two}/{id}", "{id}") for ending in (".jpg", *_ENDINGS)),
)
