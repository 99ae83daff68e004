"""How the image files of shared sources are named."""

from typing import Literal

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
