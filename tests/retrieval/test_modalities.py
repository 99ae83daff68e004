"""What a retriever declares to read: every form of it, and images that are not declared."""

from pathlib import Path

import pytest
from support.toys import Dense, image_folder, toy_split

import m2kr
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError
from m2kr.evaluation.harness import evaluate_split
from m2kr.retrieval.protocol import modalities_of


class Seeing(Dense):
    """Looks at images on both sides, if it may."""

    def encode_query(self, batch):
        self.seen = [image and image.size for image in batch.images]
        return super().encode_query(batch)


def test_images_that_were_not_declared_raise_with_the_line_to_add(tmp_path: Path) -> None:
    split = toy_split(ImageStore(image_folder(tmp_path, "a.png", "b.png")))
    with pytest.raises(InputError) as caught:
        evaluate_split(split, Seeing(10), k=3)
    line = str(caught.value).partition("this line in the class: ")[2]
    assert line == 'modalities = {"query": ["text", "image"], "passage": ["text"]}'
    mended = Seeing(10)
    exec(line, {}, vars(mended))  # as it stands
    result = evaluate_split(split, mended, k=3)
    assert sorted(map(str, mended.seen)) == ["(4, 4)", "(4, 4)", "None", "None"]
    assert result.images["found"] == 2
    assert result.retriever["modalities"] == {"query": ["image", "text"], "passage": ["text"]}


@pytest.mark.parametrize("side", ["query", "document"])
@pytest.mark.parametrize("how", ["batch", "records", "search"])
def test_no_way_leads_to_undeclared_images(side: str, how: str, tmp_path: Path) -> None:
    class Other(Dense):
        def encode_stream(self, records, at, report):
            if how == "records" and at == side:
                records.image(records[0] | {"img_path": "a.png"})
            yield from super().encode_stream(records, at, report)

        def encode_query(self, batch):
            if how == "batch" and side == "query":
                len(batch.images)
            return super().encode_query(batch)

        def encode_document(self, batch):
            if how == "batch" and side == "document":
                len(batch.images)
            return super().encode_document(batch)

        def index(self, passages, *, workdir):
            if how == "search" and side == "document":
                passages.images.open("a.png")
            super().index(passages, workdir=workdir)

        def search(self, queries, k):
            if how == "search" and side == "query":
                queries.image(queries[0] | {"img_path": "a.png"})
            return super().search(queries, k)

    images = ImageStore(image_folder(tmp_path, "a.png", "b.png"))
    for store in (images, None):
        split = toy_split(store)
        with pytest.raises(InputError, match=r"reads images of \w+, but doesn't say so"):
            evaluate_split(split, Other(), k=3)
    other = Other()
    other.reads_images = True
    evaluate_split(toy_split(images), other, k=3)


FORMS = {
    "dict": ({"query": ["text", "image"], "passage": ["text"]}, "it"),
    "one side": ({"query": ("image", "text")}, "it"),
    "a word": ({"query": "image", "passage": "text"}, "i"),
    "a set": ({"query": {"image"}, "passage": frozenset()}, "i"),
    "Modalities": (m2kr.Modalities(query={"text", "image"}), "it"),
    "neither": ({"query": [], "passage": []}, ""),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_modalities_in_each_form(form: str) -> None:
    given, query = FORMS[form]
    dense = Dense()
    dense.modalities = given
    assert {word[0] for word in modalities_of(dense).query} == set(query)
    assert isinstance(modalities_of(dense), m2kr.Modalities)


@pytest.mark.parametrize(
    ("given", "reads_images", "message"),
    [
        ({"query": ["text", "images"]}, None, "the query side can't read images"),
        ({"query": ["text"], "document": ["text"]}, None, "it has the key 'document'"),
        ({"query": 3}, None, "the query side can't read 3"),
        ({"query": [["image"]]}, None, "the query side can't read"),
        (["text", "image"], None, "doesn't say which side"),
        ("image", None, "doesn't say which side"),
        (None, None, "it is None"),
        (True, None, "it is True"),
        ({}, "yes", "reads_images is 'yes'"),
        ({"query": ["image"]}, False, "and reads_images is False"),
        ({"query": [], "passage": []}, True, "and reads_images is True"),
    ],
)
def test_a_wrong_form_is_named_with_the_right_one(given, reads_images, message) -> None:
    dense = Dense()
    dense.modalities, dense.reads_images = given, reads_images
    with pytest.raises(InputError, match=message) as caught:
        evaluate_split(toy_split(), dense, k=3)
    assert "expected" in str(caught.value)
    assert dense.batches == []


def test_reads_images_alone_is_enough_for_any_retriever(tmp_path: Path) -> None:
    class Bare:
        name, settings, reads_images = "bare", {}, True

        def index(self, passages, *, workdir):
            self.image = passages.image(passages[0] | {"img_path": "a.png"})

        def search(self, queries, k):
            return m2kr.Run.from_dict({q: {} for q in queries.ids.to_pylist()})

    split = toy_split(ImageStore(image_folder(tmp_path, "a.png", "b.png")))
    result = evaluate_split(split, Bare(), k=3)
    assert result.retriever["modalities"]["query"] == ["image", "text"]
    assert result.images["total"] == 2
