"""Files of retrievers as users write them."""

from pathlib import Path

PLACES = {
    "loading": "raise ValueError('no such net')",
    "__init__": "raise ValueError('no such net')",
    "encode_query": "raise ValueError('no such net')",
    "encode_document": "raise ValueError('no such net')",
    "encode_stream": "raise ValueError('no such net')",
    "index": "raise ValueError('no such net')",
    "search": "raise ValueError('no such net')",
    "cache_key": "raise ValueError('no such net')",
    "settings": "raise ValueError('no such net')",
    "modalities": "raise ValueError('no such net')",
    "name": "raise ValueError('no such net')",
}
FILE = """
import numpy as np
from m2kr import EncoderRetriever
{loading}

class Mine(EncoderRetriever):
    def __init__(self):
        {__init__}
    @property
    def name(self):
        {name}
        return "mine"
    @property
    def modalities(self):
        {modalities}
        return {{"query": ["text"], "passage": ["text"]}}
    @property
    def settings(self):
        {settings}
        return {{}}
    def cache_key(self, side):
        {cache_key}
        return {{}}
    def encode_query(self, batch):
        {encode_query}
        return np.ones((len(batch), 2))
    def encode_document(self, batch):
        {encode_document}
        return np.ones((len(batch), 2))
    def encode_stream(self, records, side, report):
        {encode_stream}
        yield from super().encode_stream(records, side, report)
    def index(self, passages, *, workdir):
        {index}
        super().index(passages, workdir=workdir)
    def search(self, queries, k):
        {search}
        return super().search(queries, k)
"""


def written(folder: Path, file: str = "own.py", **lines: str) -> Path:
    path = folder / file
    path.write_text(FILE.format(**dict.fromkeys(PLACES, "pass") | lines), encoding="utf-8")
    return path


def letters_file(folder: Path, body: str, name: str = "model.py", **neighbours: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    text = (
        "import numpy as np\nfrom m2kr import EncoderRetriever\n"
        f"{body}\nclass Mine(EncoderRetriever):\n"
        "    def encode_query(self, batch):\n"
        "        return np.full((len(batch), 1), float(value()))\n"
        "    def encode_document(self, batch):\n        return np.ones((len(batch), 1))\n"
    )
    (folder / name).write_text(text, encoding="utf-8")
    for path, source in neighbours.items():
        file = folder / (path.replace("__", "/").replace("/init", "/__init__") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    return f"{folder / name}:Mine"
