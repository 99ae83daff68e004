"""Croissant 1.1 metadata, made from manifests: files, fields, provenance, and what to know of the data."""

from collections.abc import Sequence
from typing import Any

from m2kr.schema import SUFFIX
from m2kr.sources import verdict

Json = dict[str, Any]

ARROW = "application/vnd.apache.arrow.stream"
_CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES = {
    "string": "sc:Text",
    "list<string>": "sc:Text",
    "int64": "sc:Integer",
    "float64": "sc:Float",
    "list<float64>": "sc:Float",
    "bool": "sc:Boolean",
}


def croissant(edition: str, records: Sequence[Json]) -> Json:
    """The metadata of an edition's Arrow files. Croissant's tools validate it, and read no Arrow."""
    files = [
        file_object(f"{table}/{shard['file']}", ARROW, shard["size"], shard["sha256"])
        for record in records
        for table, facts in record["tables"].items()
        for shard in facts["shards"]
    ]
    sets = []
    for record in records:
        for kind in ("queries", "passages"):
            name = f"{record['source']['config']}_{SUFFIX[kind]}"
            files.append(
                {
                    "@type": "cr:FileSet",
                    "@id": f"{name}-files",
                    "name": f"{name}-files",
                    "includes": f"{name}/*/data-*.arrow",
                    "encodingFormat": ARROW,
                }
            )
            sets.append(
                record_set(
                    name, record["source"]["columns"][kind], {"fileSet": {"@id": f"{name}-files"}}
                )
            )
    return described(f"m2kr-{edition}", records, files, sets)


def described(name: str, records: Sequence[Json], files: list[Json], sets: list[Json]) -> Json:
    """The metadata of some files.

    Args:
        name: Name of the data set.
        records: Manifests of its sources.
        files: Their `file_object`.
        sets: Their `record_set`.
    """
    editions = ", ".join(dict.fromkeys(record["edition"] for record in records))
    citations = [
        r["source"]["citation"].strip() for r in records if r["source"]["citation"].strip()
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.1",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": name,
        "description": f"M2KR data built by m2kr, edition {editions}.",
        "license": [record["source"]["licence"] for record in records],
        "url": "https://arxiv.org/abs/2402.08327",
        "version": f"{max((record['source'].get('version', 1) for record in records), default=1)}.0.0",
        **({"citeAs": "\n\n".join(citations)} if citations else {}),
        **_responsible(records),
        "prov:wasDerivedFrom": [_origin(entry) for record in records for entry in record["inputs"]],
        "distribution": files,
        "recordSet": sets,
    }


def _responsible(records: Sequence[Json]) -> Json:
    """How the data came to be and what to know of them, in the terms of Croissant RAI."""
    collection, repairs, limits, uses = [], [], [], []
    for record in records:
        source = record["source"]
        title = source["title"]
        collection.append(
            f"{title}: {source['summary'] or 'passages, queries and judgements'} "
            f"Made by the route '{record['route']}' from the files under prov:wasDerivedFrom."
        )
        repairs.append(
            f"{title}: {source['config']}_ledger.parquet of the edition names each upstream row that "
            "was dropped or repaired, and why."
        )
        said = verdict(record["comparable"])
        limits.append(f"{title}: {said[0].upper()}{said[1:]}.")
        limits += [f"{title}: {warning}" for warning in record["count_warnings"]]
        limits += [
            f"{title}: {rule['says']} ({'our choice' if rule['basis'] == 'ours' else 'inferred'})"
            for rule in record["rules"]
            if rule["basis"] != "read"
        ]
        uses.append(f"{title}: retrieval of passages, task {source['task']}; {record['headline']}.")
    return {
        "rai:dataCollection": "\n".join(collection),
        "rai:dataPreprocessingProtocol": repairs,
        "rai:dataLimitations": limits,
        "rai:dataUseCases": uses,
        "rai:personalSensitiveInformation": "Texts and images are upstream's; people may be in them.",
    }


def _origin(entry: Json) -> Json:
    """An upstream file that the data were made from."""
    url = entry.get("url")
    return {
        "@type": "prov:Entity",
        **({"@id": url} if url else {}),
        "name": entry["name"],
        **{name: entry[name] for name in ("sha256",) if entry.get(name)},
        **({"contentSize": f"{entry['size']} B"} if entry.get("size") is not None else {}),
        **({"license": entry["licence"]} if entry.get("licence") else {}),
    }


def file_object(path: str, kind: str, size: int, sha256: str) -> Json:
    """A file beside the metadata."""
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def record_set(name: str, columns: Sequence[Json], source: Json) -> Json:
    """The rows of a table.

    Args:
        name: Name of the set.
        columns: As in a manifest: ``name``, ``type``, ``doc``.
        source: What they are read from: ``{"fileObject": {"@id": ...}}``, or a ``fileSet``.
    """
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column['name']}",
                "name": column["name"],
                "description": column["doc"],
                "dataType": _TYPES[column["type"]],
                **(
                    {"isArray": True, "arrayShape": "-1"}
                    if column["type"].startswith("list")
                    else {}
                ),
                "source": {**source, "extract": {"column": column["name"]}},
            }
            for column in columns
        ],
    }
