"""A release in miniature: hand-written rows of all ten sources in Parquet files of the true schemas.

    write_release(folder)                       # every source
    write_release(folder, sources=["okvqa"])    # one
    counts("okvqa")                             # its rows by split and pool, to put in ``expected``

All texts are invented. Schemas, file names and known faults are the authors' (sources.md, 1.1-1.2).
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from m2kr.building.build import Built, build
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.data.rows import open_shards
from m2kr.instructions import TEMPLATES

Rows = list[dict[str, Any]]

# Source name -> stem of its folders in the release.
CONFIGS = {
    "wit": "WIT",
    "iglue": "IGLUE",
    "kvqa": "KVQA",
    "cc3m": "CC",
    "msmarco": "MSMARCO",
    "oven": "OVEN",
    "llava": "LLaVA",
    "okvqa": "OKVQA",
    "infoseek": "Infoseek",
    "evqa": "EVQA",
}

ALL = tuple(CONFIGS)

# Tables in more than one file, unless told otherwise.
SHARDS = {"WIT_data/train": 2, "EVQA_passages/test_passages": 2}

_S, _I, _F, _B, _N = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.null()
_LS, _LF = pa.list_(_S), pa.list_(_F)


def _object(ocr: pa.DataType) -> pa.DataType:
    fields = {"attribute_scores": _LF, "attributes": _LS, "class": _S, "ocr": ocr, "rect": _LF}
    return pa.list_(pa.struct(fields.items()))


_CAPTION = pa.struct([("caption", _S), ("conf", _F)])
_OCR = pa.list_(pa.struct([("description", _S), ("vertices", pa.list_(pa.list_(_I)))]))
_WORD = pa.list_(pa.struct([("score", _F), ("text", _S)]))


def _schema(text: str, types: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """Columns in order; lists end in ``*``, other types are looked up, strings are the rest."""
    fields = []
    for word in text.split():
        name = word.rstrip("*")
        fields.append((name, (types or {}).get(name, _LS if word.endswith("*") else _S)))
    return pa.schema(fields)


_WIT_PASSAGES = _schema(
    "language page_url image_url page_title section_title hierarchical_section_title "
    "caption_reference_description caption_attribution_description caption_alt_text_description "
    "mime_type original_height original_width is_main_image attribution_passes_lang_id "
    "page_changed_recently context_page_description context_section_description image_id "
    "original_data_id img_id img_path image_downloaded passage_id passage_content",
    {
        "original_height": _I,
        "original_width": _I,
        "is_main_image": _B,
        "attribution_passes_lang_id": _B,
        "page_changed_recently": _B,
        "image_downloaded": _B,
    },
)
_NO_IMAGE = {"img_id": _N, "img_path": _N, "image_id": _N}

SCHEMAS: dict[str, pa.Schema] = {
    "WIT_data": _schema(
        "original_data_id* pos_item_ids* pos_item_contents* img_id img_path image_id question_id "
        "instruction question"
    ),
    "WIT_passages": _WIT_PASSAGES,
    "IGLUE_data": _schema(
        "question_id pos_item_ids* pos_item_contents* img_id img_path image_id instruction question"
    ),
    "IGLUE_passages": _WIT_PASSAGES,
    "KVQA_data": _schema(
        "pos_item_ids* pos_item_contents* img_id img_path image_id question_id instruction question"
    ),
    "KVQA_passages": _schema("language img_id img_path passage_id passage_content"),
    "CC_data": _schema(
        "original_data_id* pos_item_ids* pos_item_contents* img_id img_path image_id question_id "
        "question instruction",
        {"question": _N},
    ),
    "CC_passages": _schema("language original_data_id img_id img_path passage_id passage_content"),
    "MSMARCO_data": _schema(
        "original_data_id* pos_item_ids* pos_item_contents* img_id img_path image_id question_id "
        "question instruction",
        _NO_IMAGE,
    ),
    "MSMARCO_passages": _schema(
        "language original_data_id img_id img_path passage_id passage_content", _NO_IMAGE
    ),
    "OVEN_data": _schema(
        "pos_item_ids* pos_item_contents* img_id img_path image_id question_id question "
        "wiki_entity wiki_entity_id instruction"
    ),
    "OVEN_passages": _schema("language passage_id passage_content"),
    "LLaVA_data": _schema(
        "pos_item_ids* pos_item_contents* img_id img_path image_id question_id question "
        "llava_split instruction"
    ),
    "LLaVA_passages": _schema("language img_id img_path passage_id passage_content llava_split"),
    "OKVQA_data": _schema(
        "answers* gold_answer question question_id img_path img_key_full img_key img_file_name img "
        "img_caption objects img_ocr pos_item_ids* pos_item_contents* related_item_ids* "
        "__index_level_0__ instruction",
        {
            "img_key": _I,
            "img": _N,
            "img_caption": _CAPTION,
            "objects": _object(_WORD),
            "img_ocr": _OCR,
        },
    ),
    "OKVQA_passages": _schema("passage_id passage_content title"),
    "Infoseek_data": _schema(
        "question_id image_id question answers* answer_eval* data_split wikidata_value "
        "wikidata_range entity_id entity_text image_path gold_answer objects related_item_ids* "
        "pos_item_ids* pos_item_contents* ROIs found img_caption instruction img_path question_type",
        {
            "wikidata_value": _F,
            "wikidata_range": _LF,
            "objects": _object(pa.list_(_N)),
            "ROIs": pa.list_(_N),
            "found": _B,
        },
    ),
    "Infoseek_passages": _schema("passage_id passage_content title"),
    "EVQA_data": _schema(
        "pos_item_ids* pos_item_contents* img_id img_path image_id question_id question answers* "
        "gold_answer question_type instruction"
    ),
    "EVQA_passages": _schema("language passage_id passage_content"),
}

# What the release gives where our own list is invented.
_SAID = {
    "KVQA": ("Who is in this picture? Find the text about them: ", "Name the people shown: "),
    "MSMARCO": ("Answer the query with a web page: ", "Give a page for this query: "),
}


def _instruction(config: str, number: int) -> str:
    names = {config: name for name, config in CONFIGS.items()}
    listed = next(t.templates for t in TEMPLATES.values() if names[config] in t.used_for)
    texts = _SAID.get(config, listed)
    return texts[number % len(texts)]


def _asked(config: str, pool: Rows, rows: Iterable[dict[str, Any]]) -> Rows:
    """Query rows with instructions, and with the texts of their positives (of the first of a name)."""
    texts: dict[str, str] = {}
    for passage in pool:
        texts.setdefault(passage["passage_id"], passage["passage_content"])
    full = []
    for number, row in enumerate(rows):
        contents = [texts[i] for i in row["pos_item_ids"]] if "pos_item_contents" not in row else []
        full.append(
            {"instruction": _instruction(config, number), "pos_item_contents": contents} | row
        )
    return full


# -- WIT and IGLUE ------------------------------------------------------------------------------


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _wit(number: int, stem: str, title: str, section: str | None, caption: str | None) -> dict:
    address = f"https://upload.wikimedia.org/wikipedia/commons/a/ab/{title.replace(' ', '_')}.jpg"
    image = _md5(address)
    parts = [f"title: {title}"]
    parts += [f"section title: {section}"] if section else []
    parts += [f"hierarchical section title: {title} / {section}"] if section else []
    parts += [f"caption reference description: {caption}"] if caption else []
    return {
        "language": "en",
        "page_url": f"https://en.wikipedia.org/wiki/{title.replace(' ', '_')}",
        "image_url": address,
        "page_title": title,
        "section_title": section,
        "hierarchical_section_title": f"{title} / {section}" if section else title,
        "caption_reference_description": caption,
        "caption_attribution_description": None,
        "caption_alt_text_description": None,
        "mime_type": "image/jpeg",
        "original_height": 600 + number,
        "original_width": 800,
        "is_main_image": section is None,
        "attribution_passes_lang_id": None,
        "page_changed_recently": True,
        "context_page_description": f"{title} is a thing.",
        "context_section_description": None,
        "image_id": image,
        "original_data_id": f"train_{number * 3}",
        "img_id": image,
        "img_path": f"{image}.jpg",
        "image_downloaded": True,
        "passage_id": f"{stem}_{number}",
        "passage_content": " ".join([*parts, f"content: {title} is a thing."]),
    }


_WIT_POOL = [
    _wit(0, "WIT", "Blue Mill", None, None),
    _wit(1, "WIT", "Blue Mill", "History", "The mill in 1901"),
    _wit(2, "WIT", "Grey Tower", None, "Grey Tower from the north"),
    _wit(3, "WIT", "Old Pier", "Use", None),
    _wit(4, "WIT", "Red Gate", None, "The gate\nat night"),
    _wit(5, "WIT", "Long Bridge", None, None),
    _wit(6, "WIT", "Long Bridge", "Traffic", "Cars on it"),
    _wit(7, "WIT", "Small Lake", None, "Zürich, “seen” from 東"),
    _wit(8, "WIT", "Deep Mine", "Closure", None),
]
_IGLUE_POOL = [
    _wit(i, "IGLUE", title, section, caption)
    for i, (title, section, caption) in enumerate(
        [
            ("Old Pier", None, "The old pier in 2010"),
            ("Old Pier", "Fire", "The old pier burning"),
            ("White Rock", None, "The rock"),
            ("Green Hall", "Rooms", "A room"),
            ("Wide Field", None, "A field"),
            ("Short Lane", None, "A lane"),
        ]
    )
]


def _images(config: str, pool: Rows) -> Rows:
    """One query an image, with all of its passages; the question is one blank."""
    by_image: dict[str, list[dict]] = {}
    for passage in pool:
        by_image.setdefault(passage["image_id"], []).append(passage)
    rows = []
    for image, found in by_image.items():
        row = {
            "pos_item_ids": [p["passage_id"] for p in found],
            "img_id": image,
            "img_path": f"{image}.jpg",
            "image_id": image,
            "question_id": image,
            "question": " ",
        }
        if config == "WIT":
            row["original_data_id"] = [p["original_data_id"] for p in found]
        rows.append(row)
    return _asked(config, pool, rows)


# -- Images of people, captions -----------------------------------------------------------------

_PEOPLE = ["Ada Person", "Ben Human", "Cy Figure", "Di Somebody", "Ed Anyone", "Flo Everyone"]


def _kvqa(pools: Iterable[int]) -> Rows:
    return [
        {
            "language": "en",
            "img_id": f"{100 + i}",
            "img_path": f"{100 + i}.jpg",
            "passage_id": f"KVQA_{100 + i}",
            "passage_content": f"{_PEOPLE[i]} in 199{i}. Who is this? {_PEOPLE[i]}.",
        }
        for i in pools
    ]


def _kvqa_asked(split: str, pool: Rows) -> Rows:
    rows = []
    for number in range(5):
        passage = pool[number % 3]  # an image several times
        rows.append(
            {
                "pos_item_ids": [passage["passage_id"]],
                "img_id": passage["img_id"],
                "img_path": passage["img_path"],
                "image_id": passage["img_id"],
                "question_id": f"KVQA_{split}_{number}",
                "question": " ",
            }
        )
    return _asked("KVQA", pool, rows)


_CC_POOL = [
    {
        "language": "en",
        "original_data_id": f"GCC_train_00000010{i}",
        "img_id": f"GCC_train_00000010{i}",
        "img_path": f"GCC_train_00000010{i}.jpg",
        "passage_id": f"CC_{i}",
        "passage_content": text,
    }
    for i, text in enumerate(
        ["a dog by a wall", "two cups of tea", "a boat", "rain on a street", "a boat"]
    )
]
_CC_ASKED = _asked(
    "CC",
    _CC_POOL,
    [
        {
            "original_data_id": [p["original_data_id"]],
            "pos_item_ids": [p["passage_id"]],
            "img_id": p["img_id"],
            "img_path": p["img_path"],
            "image_id": p["img_id"],
            "question_id": f"CC_{p['img_id']}",
            "question": None,
        }
        for p in _CC_POOL
    ],
)

# -- MS MARCO -----------------------------------------------------------------------------------

_PAGES = [
    "A pear is a fruit.",
    "Pears are picked in autumn.",
    "A ton is 1,000 kilograms.",
    "The river is 310 km long.",
    "Salt melts ice.",
    "Ice is frozen water.",
    "A mill grinds grain.",
    "Grain is a seed.",
    "Towers are tall.",
    "A pier stands in water.",
    "Boats float.",
    "Tea comes from China.",
]


def _marco(numbers: Iterable[int]) -> Rows:
    return [
        {
            "language": "en",
            "original_data_id": f"{i}",
            "img_id": None,
            "img_path": None,
            "passage_id": f"MSMARCO_{i}",
            "passage_content": _PAGES[i],
        }
        for i in numbers
    ]


def _marco_asked(pool: Rows, asked: Mapping[int, tuple[str, list[int]]]) -> Rows:
    return _asked(
        "MSMARCO",
        pool,
        [
            {
                "original_data_id": [f"{number}"],
                "pos_item_ids": [f"MSMARCO_{i}" for i in right],
                "question_id": f"MSMARCO_{number}",
                "question": question,
            }
            for number, (question, right) in asked.items()
        ],
    )


_MARCO_TRAIN, _MARCO_TEST = _marco(range(12)), _marco([0, 1, 2, 3, 5, 6, 8, 11])
_MARCO_ASKED = {
    900: ("what is a pear", [0]),
    901: ("when are pears picked", [1]),
    902: ("how heavy is a ton", [2]),
    903: ("how long is the river", [3]),
    904: ("pears?", [0, 1]),
}

# -- OVEN and LLaVA -----------------------------------------------------------------------------

_ENTITIES = ["Grey Tower", "Blue Mill", "Old Pier", "Red Gate", "Long Bridge", "Small Lake"]


def _oven(numbers: Iterable[int]) -> Rows:
    return [
        {
            "language": "en",
            "passage_id": f"OVEN_Q{i}",
            "passage_content": f"{_ENTITIES[i]}. {_ENTITIES[i]} is well known.",
        }
        for i in numbers
    ]


def _oven_asked(split: str, pool: Rows, n: int) -> Rows:
    rows = []
    for number in range(n):
        entity = number % len(pool)
        name = f"oven_0{split[0] == 'v':d}00000{number}"
        rows.append(
            {
                "pos_item_ids": [pool[entity]["passage_id"]],
                "img_id": name,
                "img_path": f"01/{name}.jpg",
                "image_id": name,
                "question_id": f"oven_{split}_{number}",
                "question": ["what is this building?", "what is the name of this place?"][
                    number % 2
                ],
                "wiki_entity": _ENTITIES[entity],
                "wiki_entity_id": f"Q{entity}",
            }
        )
    return _asked("OVEN", pool, rows)


def _llava(split: str, n: int) -> Rows:
    return [
        {
            "language": "en",
            "img_id": f"{number:012d}",
            "img_path": f"COCO_train2014_{number:012d}.jpg",
            "passage_id": f"LLaVA_{split}_{number}",
            "passage_content": f"The picture shows {number + 1} birds on a fence.",
            "llava_split": ["conversation", "detail", "complex_reasoning"][number % 3],
        }
        for number in range(n)
    ]


def _llava_asked(split: str, pool: Rows, n: int) -> Rows:
    return _asked(
        "LLaVA",
        pool,
        [
            {
                "pos_item_ids": [p["passage_id"]],
                "img_id": p["img_id"],
                "img_path": p["img_path"],
                "image_id": p["img_id"],
                "question_id": f"{p['passage_id']}_q",
                "question": "How many birds are there?",
                "llava_split": p["llava_split"],
            }
            for p in pool[:n]
        ],
    )


# -- OKVQA and Infoseek -------------------------------------------------------------------------

_WIKI = [
    ("1", "Pear", "Pears are sweet."),
    ("2", "Pear", "The pear tree flowers in April."),
    ("70", "Grey Tower", "Grey Tower is 31 m tall."),
    ("71", "Grey Tower", "It was built in 1901."),
    ("8000", "Blue Mill", "Blue Mill grinds wheat."),
    ("8001", "Wheat", "Wheat is a grain."),
    ("90000", "Red Gate", "Red Gate has two doors."),
    ("90001", "Red", "Red is a colour."),
]


def _wiki(first: int = 0) -> Rows:
    return [
        {
            "passage_id": row_id,
            "passage_content": f"title: {title} content: {text}",
            "title": title,
        }
        for row_id, title, text in _WIKI[first:]
    ]


_OKVQA_POOL = _wiki(1)  # passage 1 is none of it: as a positive it is the dummy


def _okvqa(number: int, question: str, answers: list[str], right: list[str], subset: str) -> dict:
    key = 500 + number
    name = f"COCO_{subset}_{key:012d}.jpg"
    dummy = right == ["1"]
    return {
        "answers": answers,
        "gold_answer": answers[0],
        "question": question,
        "question_id": f"{key}5",
        "img_path": f"{subset}/{name}",
        "img_key_full": f"{key:012d}",
        "img_key": key,
        "img_file_name": name,
        "img": None,
        "img_caption": {"caption": "a fruit", "conf": 0.5},
        "objects": [
            {
                "attribute_scores": [0.25, 0.125],
                "attributes": ["ripe", "grün"],
                "class": "pear",
                "ocr": [{"score": 0.5, "text": "SALE"}] if number % 2 else [],
                "rect": [1.0, 2.0, 3.5, 4.0],
            }
        ],
        "img_ocr": [{"description": "SALE", "vertices": [[1, 2], [3, 4]]}],
        "pos_item_ids": right,
        "related_item_ids": [] if dummy else [*right, "90001"],
        "__index_level_0__": f"{key}",
    } | ({"pos_item_contents": [""]} if dummy else {})


_OKVQA_TRAIN = [
    _okvqa(0, "What fruit is this?", ["pear", "pear", "pears"], ["2"], "train2014"),
    _okvqa(1, "What is made of it?", ["flour"], ["1"], "train2014"),
    _okvqa(2, "How tall is it?", ["31 m", "31"], ["70", "71"], "train2014"),
    _okvqa(3, "What does it grind?", ["wheat"], ["8000", "8001"], "train2014"),
    _okvqa(4, "How many doors?", ["two", "2"], ["90000"], "train2014"),
    _okvqa(5, "Which colour?", ["red"], ["90001"], "train2014"),
]
_OKVQA_TEST = [
    _okvqa(10, "When was it built?", ["1901"], ["71"], "val2014"),
    _okvqa(11, "What is this for?", ["nothing known"], ["1"], "val2014"),
    _okvqa(12, "When does it flower?", ["april", "spring"], ["2"], "val2014"),
    _okvqa(13, "What grain is it?", ["wheat"], ["8001", "8000"], "val2014"),
    _okvqa(14, "Which colour?", ["red"], ["90001", "90000"], "val2014"),
]


def _infoseek(
    number: int,
    split: str,
    question: str,
    answers: list[str],
    right: list[str],
    value: float | None = None,
) -> dict:
    subset = "train" if split == "train" else "val"
    image = f"oven_0{number:07d}"
    return {
        "question_id": f"infoseek_{subset}_{number:08d}",
        "image_id": image,
        "question": question,
        "answers": answers,
        "answer_eval": [] if value is not None else answers[:1],
        "data_split": "train" if split == "train" else "val_unseen_entity",
        "wikidata_value": value,
        "wikidata_range": None if value is None else [value - 3.125, value + 3.125],
        "entity_id": f"Q{number}",
        "entity_text": "Grey Tower",
        "image_path": f"/data/oven/{image}.jpg",
        "gold_answer": answers[0],
        "objects": [
            {
                "attribute_scores": [0.5],
                "attributes": ["tall"],
                "class": "tower",
                "ocr": [],
                "rect": [0.0, 0.0, 9.0, 9.0],
            }
        ],
        "related_item_ids": ["70", "71"],
        "pos_item_ids": right,
        "ROIs": [],
        "found": True,
        "img_caption": "a tower",
        "img_path": f"{image}.jpg",
        "question_type": "Numerical" if value is not None else "String",
    }


_INFOSEEK_TRAIN = [
    _infoseek(1, "train", "When was it built?", ["1901"], ["71"]),
    _infoseek(2, "train", "How tall is this tower?", ["31"], ["70"], 31.0),
    _infoseek(3, "train", "What is it called?", ["Grey Tower", "the tower"], ["70", "71"]),
    _infoseek(4, "train", "What does this grind?", ["wheat"], ["8000"]),
    _infoseek(5, "train", "What colour is it?", ["red"], ["90001"]),
]
_INFOSEEK_TEST = [
    _infoseek(21, "test", "How tall is this tower?", ["31"], ["70"], 31.0),
    _infoseek(22, "test", "In which year was this built?", ["1901"], ["71"]),
    _infoseek(23, "test", "How many doors has it?", ["two"], ["90000"]),
    _infoseek(24, "test", "What is this?", ["Pear"], ["1", "2"]),
    _infoseek(25, "test", "What is ground here?", ["wheat", "grain"], ["8000"]),
]

# -- E-VQA --------------------------------------------------------------------------------------

_SECTIONS = [
    ("Grey reed", 0, "Grey reed is a plant."),
    ("Grey reed", 2, "It grows to 30 cm."),
    ("Blue Mill", 0, "Blue Mill is a windmill."),
    ("Blue Mill", 1, "It was built in 1901."),
    ("Marsh owl", 3, "It eats mice."),
    ("Marsh owl", 4, "It sleeps by day."),
]


def _evqa(*more: tuple[str, int, str]) -> Rows:
    return [
        {
            "language": "en",
            "passage_id": f"WikiWeb_{title}_{number}",
            "passage_content": f"title: {title} content: {text}",
        }
        for title, number, text in (*_SECTIONS, *more)
    ]


_EVQA_POOLS = {
    "train": _evqa(),
    "valid": _evqa(("Oak", 1, "It is a tree.")),
    # An id with another text, then a passage that is there already, in another file.
    "test": _evqa(
        ("Marsh owl", 3, "It also eats frogs."),
        ("Elm", 0, "Elms are trees."),
        ("Grey reed", 2, "It grows to 30 cm."),
        ("Marsh owl", 3, "It hunts at dusk."),
    ),
}


def _evqa_asked(split: str) -> Rows:
    asked = [
        ("how tall is this plant?", ["30 cm", "1 foot"], "WikiWeb_Grey reed_2", "templated"),
        ("what does this bird eat?", ["mice"], "WikiWeb_Marsh owl_3", "automatic"),
        ("when was this built?", ["1901"], "WikiWeb_Blue Mill_1", "templated"),
        ("what is this?", ["a windmill"], "WikiWeb_Blue Mill_0", "automatic"),
        ("when does it sleep?", ["by day"], "WikiWeb_Marsh owl_4", "automatic"),
    ]
    rows = []
    for number, (question, answers, right, kind) in enumerate(asked):
        image = f"{number}{'abc'[len(split) % 3]}7700000000000"
        path = f"google-landmark/train/{'/'.join(image[:3])}/{image}.jpg"
        rows.append(
            {
                "pos_item_ids": [right],
                "img_id": image,
                "img_path": path if number != 1 else f"inat/val/00_Birds_Owl/{image}.jpg",
                "image_id": image,
                "question_id": f"EVQA_{split}_{number}",
                "question": question,
                "answers": answers,
                "gold_answer": answers[0],
                "question_type": kind,
            }
        )
    return _asked("EVQA", _EVQA_POOLS[split], rows)


# -- All of it ----------------------------------------------------------------------------------

_SMALL_WIT = _WIT_POOL[4:]
_OVEN_TRAIN, _OVEN_TEST = _oven(range(6)), _oven(range(5))
_KVQA_TRAIN, _KVQA_TEST = _kvqa(range(5)), _kvqa(range(1, 6))
_LLAVA = {"train": _llava("train", 6), "test": _llava("test", 7)}
_SHARED_WIKI = _wiki()

ROWS: dict[str, Rows] = {
    "WIT_data/train": _images("WIT", _WIT_POOL),
    "WIT_data/valid": _images("WIT", _SMALL_WIT)[:3],
    "WIT_data/test": _images("WIT", _SMALL_WIT),
    "WIT_passages/train_passages": _WIT_POOL,
    "WIT_passages/valid_passages": _SMALL_WIT,
    "WIT_passages/test_passages": _SMALL_WIT,
    "IGLUE_data/test": _images("IGLUE", _IGLUE_POOL),
    "IGLUE_passages/test_passages": _IGLUE_POOL,
    "KVQA_data/train": _kvqa_asked("train", _KVQA_TRAIN),
    "KVQA_data/valid": _kvqa_asked("valid", _KVQA_TEST),
    "KVQA_data/test": _kvqa_asked("test", _KVQA_TEST),
    "KVQA_passages/train_passages": _KVQA_TRAIN,
    "KVQA_passages/valid_passages": _KVQA_TEST,
    "KVQA_passages/test_passages": _KVQA_TEST,
    "CC_data/train": _CC_ASKED,
    "CC_passages/train_passages": _CC_POOL,
    "MSMARCO_data/train": _marco_asked(
        _MARCO_TRAIN, _MARCO_ASKED | {7: ("what melts ice", [4]), 8: ("do boats float", [10])}
    ),
    "MSMARCO_data/valid": _marco_asked(_MARCO_TEST, _MARCO_ASKED),
    "MSMARCO_data/test": _marco_asked(
        _MARCO_TEST, {k: v for k, v in _MARCO_ASKED.items() if k != 902}
    ),
    "MSMARCO_passages/train_passages": _MARCO_TRAIN,
    "MSMARCO_passages/valid_passages": _MARCO_TEST,
    "MSMARCO_passages/test_passages": _MARCO_TEST,
    "OVEN_data/train": _oven_asked("train", _OVEN_TRAIN, 8),
    "OVEN_data/valid": _oven_asked("valid", _OVEN_TEST, 6),
    "OVEN_data/test": _oven_asked("test", _OVEN_TEST, 5),
    "OVEN_passages/train_passages": _OVEN_TRAIN,
    "OVEN_passages/valid_passages": _OVEN_TEST,
    "OVEN_passages/test_passages": _OVEN_TEST,
    "LLaVA_data/train": _llava_asked("train", _LLAVA["train"], 6),
    "LLaVA_data/test": _llava_asked("test", _LLAVA["test"], 5),
    "LLaVA_passages/train_passages": _LLAVA["train"],
    "LLaVA_passages/test_passages": _LLAVA["test"],
    "OKVQA_data/train": _asked("OKVQA", _OKVQA_POOL, _OKVQA_TRAIN),
    "OKVQA_data/valid": _asked("OKVQA", _OKVQA_POOL, _OKVQA_TEST),
    "OKVQA_data/test": _asked("OKVQA", _OKVQA_POOL, _OKVQA_TEST),
    "OKVQA_passages/train_passages": _OKVQA_POOL,
    "OKVQA_passages/valid_passages": _OKVQA_POOL,
    "OKVQA_passages/test_passages": _OKVQA_POOL,
    "Infoseek_data/train": _asked("Infoseek", _SHARED_WIKI, _INFOSEEK_TRAIN),
    "Infoseek_data/test": _asked("Infoseek", _SHARED_WIKI, _INFOSEEK_TEST),
    "Infoseek_passages/train_passages": _SHARED_WIKI,
    "Infoseek_passages/test_passages": _SHARED_WIKI,
    "EVQA_data/train": _evqa_asked("train"),
    "EVQA_data/valid": _evqa_asked("valid"),
    "EVQA_data/test": _evqa_asked("test"),
    "EVQA_passages/train_passages": _EVQA_POOLS["train"],
    "EVQA_passages/valid_passages": _EVQA_POOLS["valid"],
    "EVQA_passages/test_passages": _EVQA_POOLS["test"],
}


def tables(source: str) -> dict[str, Rows]:
    """The tables of a source by name, such as ``OKVQA_data/test``."""
    return {
        n: rows for n, rows in ROWS.items() if n.split("/")[0].rsplit("_", 1)[0] == CONFIGS[source]
    }


def counts(source: str) -> dict[str, int]:
    """Rows by split and pool: what ``Source.expected`` says of this release."""
    return {name.split("/")[1]: len(rows) for name, rows in tables(source).items()}


def write_release(
    folder: Path,
    *,
    sources: Iterable[str] = tuple(CONFIGS),
    shards: Mapping[str, int] = SHARDS,
    arrow_schema: bool = True,
) -> Path:
    """Writes the files of some sources.

    Args:
        folder: Where to.
        sources: Which.
        shards: Files by table, where there is more than one.
        arrow_schema: Write the Arrow schema into the files; without, Parquet's own types are all.
    """
    for source in sources:
        for name, rows in tables(source).items():
            write_table(folder, name, rows, shards=shards.get(name, 1), arrow_schema=arrow_schema)
    return folder


def write_table(
    folder: Path, name: str, rows: Rows, *, shards: int = 1, arrow_schema: bool = True
) -> list[Path]:
    """Writes one table in the release's schema and under its names."""
    config, split = name.split("/")
    schema = SCHEMAS[config].with_metadata({"huggingface": '{"info": {}}'})
    table = pa.Table.from_pylist(rows, schema=schema)
    (folder / config).mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // shards)
    paths = []
    for shard in range(shards):
        path = folder / config / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(table.slice(shard * size, size), path, store_schema=arrow_schema)
        paths.append(path)
    return paths


# -- Old and broken ones ------------------------------------------------------------------------


def without_instruction(folder: Path, source: str) -> None:
    """Turns a source's query files into those of before June 2024."""
    for path in sorted((folder / f"{CONFIGS[source]}_data").glob("*.parquet")):
        pq.write_table(pq.read_table(path).drop_columns(["instruction"]), path)


def old_oven(folder: Path) -> None:
    """OVEN with the splits of before June 2024: valid and test hold other rows."""
    write_table(folder, "OVEN_data/valid", ROWS["OVEN_data/valid"][:3])
    write_table(folder, "OVEN_data/test", [*ROWS["OVEN_data/test"], *ROWS["OVEN_data/valid"][3:]])


def lose_shard(folder: Path, name: str, shard: int = 0) -> Path:
    """Takes one file of a table away."""
    config, split = name.split("/")
    path = sorted((folder / config).glob(f"{split}-*.parquet"))[shard]
    path.unlink()
    return path


def truncate(folder: Path, name: str, shard: int = 0, keep: float = 0.5) -> Path:
    """Cuts a file of a table off."""
    config, split = name.split("/")
    path = sorted((folder / config).glob(f"{split}-*.parquet"))[shard]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def damage(folder: Path, name: str, shard: int = 0) -> Path:
    """Overwrites pages of a file and leaves its footer: only reading all of it tells."""
    config, split = name.split("/")
    path = sorted((folder / config).glob(f"{split}-*.parquet"))[shard]
    data = bytearray(path.read_bytes())
    for at in range(4, 400):
        data[at] = 0xFF
    path.write_bytes(bytes(data))
    return path


def made(name: str, files: Path, root: Path, **more: Any) -> Built:
    """A source built from a folder of the release."""
    options = {k: more.pop(k) for k in ("repair", "any_counts") if k in more}
    return build(ReleaseBuilder(name, files, **options), root, **more)


def rows_of(root: Path, table: str, edition: str = "m2kr") -> list[dict[str, Any]]:
    """The rows of a built table."""
    rows: list[dict[str, Any]] = open_shards(root / edition / table).to_pylist()
    return rows


def ledger(root: Path, config: str, edition: str = "m2kr") -> list[dict[str, Any]]:
    """The ledger of a built source."""
    rows: list[dict[str, Any]] = pq.read_table(
        root / edition / f"{config}_ledger.parquet"
    ).to_pylist()
    return rows


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
