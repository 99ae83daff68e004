"""Passages and questions from the CIA World Factbook (public domain)."""

import html
import re
from dataclasses import dataclass
from typing import Any

from questions import contains

# ISO code -> Factbook file, where its own "Internet country code" field does not say it.
FILES = {"gb": "uk", "fr": "fr"}
NAMES = {
    "cd": "Democratic Republic of the Congo",
    "cg": "Republic of the Congo",
    "do": "Dominican Republic",
    "eu": "European Union",
    "fk": "Falkland Islands",
    "mm": "Burma (Myanmar)",
    "sh": "Saint Helena, Ascension, and Tristan da Cunha",
    "sj": "Svalbard",
    "tf": "French Southern and Antarctic Lands",
    "tr": "Turkey",
    "va": "Vatican City",
    "ps": "Gaza Strip",
}
# Flags left out: the picture or the text does not show a flag of this place alone, as it is today.
OMITTED_FLAGS = {
    "aq": "the package's design is not the one that the Factbook describes",
    "bl": "uses the flag of France",
    "bv": "uses the flag of Norway",
    "cc": "shown with the flag of Australia",
    "eh": "no flag text in the Factbook",
    "hm": "uses the flag of Australia",
    "id": "same design as the flag of Monaco",
    "iq": "the package has the flag used until 2008",
    "mc": "same design as the flag of Indonesia",
    "mf": "shown with the flag of Sint Maarten",
    "mr": "the package has the flag used until 2017",
    "nc": "shown with the flag of France",
    "pm": "shown with the flag of France",
    "ps": "no flag text in the Factbook",
    "ro": "same design as the flag of Chad",
    "sj": "uses the flag of Norway",
    "sy": "the package has the flag used until 2024",
    "td": "same design as the flag of Romania",
    "tf": "uses the flag of France",
    "tk": "shown with the flag of New Zealand",
    "vi": "shown with the flag of the British Virgin Islands",
    "wf": "shown with the flag of France",
}
ARTICLE = re.compile(
    r"^(United|Netherlands|Isle of|Gaza|French S|Philippines|Democratic|Republic|"
    r"Dominican Republic|Central African|European|Federated|British|Holy|Maldives|Comoros|Seychelles)|"
    r"(?<!McDonald )(Islands|Territory|Republic|Emirates)$"
)
WORDS = 90


@dataclass(frozen=True, slots=True)
class Country:
    """One place of the Factbook: ISO code, name, name in running text, the record."""

    iso: str
    name: str
    called: str
    record: dict[str, Any]


def countries(records: dict[str, dict[str, Any]]) -> list[Country]:
    """The places that have a two-letter Internet code of their own, by code."""
    by_iso = {iso: records[file] for iso, file in FILES.items()}
    for key in sorted(records):
        match = re.match(r"\.([a-z]{2})\b", field(records[key], "Internet country code"))
        if match and match[1] != "uk":
            by_iso.setdefault(match[1], records[key])
    found = []
    for iso, record in sorted(by_iso.items()):
        short = field(record, "conventional short form")
        name = NAMES.get(iso) or re.sub(r" \(.*", "", short)
        if not name or name == "none":
            name = field(record, "conventional long form")
        called = f"the {name}" if ARTICLE.search(name) else name
        found.append(Country(iso, name, re.sub(r"^The ", "the ", called), record))
    return found


def field(record: dict[str, Any], *path: str) -> str:
    """The clean text of the first field with this path of names, at any depth; '' if absent."""
    for key, value in record.items():
        if not isinstance(value, dict):
            continue
        if key.strip() == path[0]:
            if len(path) > 1:
                return field(value, *path[1:])
            return clean(str(value["text"])) if "text" in value else field(value, path[0])
        if "text" not in value:
            inner = field(value, *path)
            if inner:
                return inner
    return ""


def clean(text: str) -> str:
    """Text without markup; paragraphs become sentences of one line."""
    text = re.sub(r"<br\s*/?>|</p>\s*<p>", " ", html.unescape(text))
    text = re.sub(r"<[^>]+>", "", text)
    return re.sub(r"\s+", " ", text.replace("\ufeff", "")).strip()


def cut(text: str, words: int = WORDS) -> str:
    """The leading sentences, or clauses, of a text that fit into so many words."""
    if len(text.split()) <= words:
        return text
    kept = ""
    for piece in re.findall(r".+?(?:[.;](?=\s)|$)", text):
        if len((kept + piece).split()) > words:
            break
        kept += piece
    kept = kept or " ".join(text.split()[:words]) + " ..."
    return re.sub(r"[;,]$", ".", kept.strip())


def labelled(record: dict[str, Any], *items: tuple[str, tuple[str, ...]]) -> str:
    """``Label: value.`` for each field that the record has."""
    lines = []
    for label, path in items:
        value = field(record, *path)
        if value and value not in ("none", "NA", "0 km"):
            lines.append(f"{label}: {value.rstrip('.;')}.")
    return " ".join(lines)


def sections(country: Country) -> dict[str, str]:
    """The passages of one country by section name."""
    rec, name = country.record, country.name
    flag = re.sub(r"^description: ", "", field(rec, "Flag"))
    flag = re.sub(r"\s*(meaning|history|note): ?", r". \1: ", flag).replace("; .", ".")
    capital = field(rec, "Capital", "name")
    texts = {
        "flag": f"The flag of {country.called}: {flag}" if flag else "",
        "symbols": labelled(
            rec,
            ("National symbol", ("National symbol(s)",)),
            ("National colors", ("National color(s)",)),
            ("National anthem", ("National anthem(s)", "title")),
            ("About the anthem", ("National anthem(s)", "history")),
            ("Coat of arms", ("National coat of arms",)),
        ),
        "geography": labelled(
            rec,
            ("Location", ("Location",)),
            ("Area", ("Area", "total")),
            ("Size", ("Area - comparative",)),
            ("Neighbors", ("Land boundaries", "border countries")),
            ("Highest point", ("Elevation", "highest point")),
            ("Coastline", ("Coastline",)),
            ("Climate", ("Climate",)),
            ("Terrain", ("Terrain",)),
        ),
        "people": labelled(
            rec,
            ("Ethnic groups", ("Ethnic groups",)),
            ("Languages", ("Languages",)),
            ("Religions", ("Religions",)),
        ),
        "capital": labelled(
            rec,
            (f"The capital of {country.called}", ("Capital", "name")),
            ("Origin of the name", ("Capital", "etymology")),
            ("Time", ("Capital", "time difference")),
        )
        if capital and capital != "none"
        else "",
        "government": labelled(
            rec,
            ("Government", ("Government type",)),
            ("Independence", ("Independence",)),
            ("National holiday", ("National holiday",)),
            ("Parliament", ("legislature name",)),
        ),
        "economy": labelled(
            rec,
            ("Economy", ("Economic overview",)),
            ("Farm products", ("Agricultural products",)),
            ("Industries", ("Industries",)),
            ("Exports", ("Exports - commodities",)),
            ("Currency", ("Exchange rates", "Currency")),
        ),
    }
    out = {}
    if background := cut(field(rec, "Background")):
        out["introduction"] = background
    for section, text in texts.items():
        text = cut(text.replace(" per US dollar -", ""))
        if country.iso in OMITTED_FLAGS and section == "flag":
            continue
        if len(text.split()) >= 8 or (section == "capital" and text):
            out[section] = text if name in text else f"{name}. {text}"
    return out


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of question about a country: where its answer stands and how to ask for it.

    The answer stands behind ``label`` in the passage ``section``. Other sections hold it too if a
    sentence has it together with the ``cue``.
    """

    name: str
    path: tuple[str, ...]
    section: str
    label: str
    type: str
    with_flag: str
    named: str
    cue: str = ""


RELATIONS = (
    Relation("capital", ("Capital", "name"), "capital", "The capital of", "String",
             "What is the capital of the country or territory with this flag?",
             "What is the capital of {called}?", cue="capital"),
    Relation("language", ("Languages",), "people", "Languages:", "String",
             "Which language is official where this flag is flown?",
             "Which official language is spoken in {called}?"),
    Relation("symbol", ("National symbol(s)",), "symbols", "National symbol:", "String",
             "What is the national symbol of the country with this flag?",
             "What is the national symbol of {called}?"),
    Relation("anthem", ("National anthem(s)", "title"), "symbols", "National anthem:", "String",
             "What is the title of the national anthem of the country with this flag?",
             "What is the national anthem of {called} called?"),
    Relation("independence", ("Independence",), "government", "Independence:", "Time",
             "In which year did the country with this flag become independent?",
             "In which year did {called} become independent?", cue="independen"),
    Relation("highest-point", ("Elevation", "highest point"), "geography", "Highest point:", "String",
             "What is the highest point of the land that this flag belongs to?",
             "What is the highest point of {called}?"),
    Relation("area", ("Area", "total"), "geography", "Area:", "Numerical",
             "How large is the country or territory with this flag?",
             "What is the area of {called}?"),
    Relation("neighbor", ("Land boundaries", "border countries"), "geography", "Neighbors:", "String",
             "With which country does the one with this flag share its longest land border?",
             "With which country does {called} share its longest land border?"),
    Relation("export", ("Exports - commodities",), "economy", "Exports:", "String",
             "What does the country with this flag export most?",
             "What does {called} export most?"),
    Relation("farm-product", ("Agricultural products",), "economy", "Farm products:", "String",
             "What is the main farm product of the country with this flag?",
             "What is the main farm product of {called}?"),
    Relation("government", ("Government type",), "government", "Government:", "String",
             "What form of government does the country with this flag have?",
             "What form of government does {called} have?"),
)  # fmt: skip


def holds(relation: Relation, section: str, text: str, accepted: list[str]) -> bool:
    """Whether a passage of the right country answers a relation."""
    if section == relation.section:
        parts = [text.partition(relation.label)[2]]
    else:
        parts = [s for s in text.split(". ") if relation.cue and relation.cue in s.lower()]
    return any(contains(part, answer) for part in parts for answer in accepted)


def answers(relation: Relation, country: Country) -> list[str]:
    """The accepted answers to a relation for a country; [] where the Factbook has none."""
    text = field(country.record, *relation.path)
    if not text or re.match(r"none|NA$|no official|metropolitan", text):
        return []
    if relation.name == "language":
        official = re.findall(
            r"([A-Z][^,;()0-9%]*?)\s*(?:[\d.]+%\s*)?\((?:[^)]*\b)?official\b", text
        )
        return [o.strip() for o in official if "other" not in o and len(o.split()) <= 3]
    if relation.name == "independence":
        years = re.findall(r"\b(1[0-9]{3}|20[0-9]{2})\b", text)
        return years[:1] if "(from" in text else []
    if relation.name == "anthem":
        titles = re.findall(r'"([^"]+)"', text)
        # Named beside the anthem of their own in several realms, and of their own in none but one.
        royal = "God Save the King" in titles and country.iso != "gb"
        return [] if royal else titles[:2]
    if relation.name == "neighbor":
        borders = re.findall(r"(?:^|; |, )([^;,()]+?)(?: \([^)]*\))? ([\d,.]+) km", text)
        longest = max(borders, key=lambda b: float(b[1].replace(",", "")), default=None)
        return [longest[0].strip()] if longest and len(borders) > 1 else []
    if relation.name == "highest-point":
        peak = re.sub(r"\s+(?:\([^)]*\)\s*)?[\d,.]+( m\b.*)?$", "", text).split(" (")[0]
        return [] if re.search(r"unnamed|location|\d", peak) else [peak]
    if relation.name == "area":
        return re.findall(r"^[\d,.]+ (?:million )?sq km", text)
    if relation.name in ("export", "farm-product"):
        goods = (
            re.sub(r"\s*\(\d{4}\)|note:.*|small quantities of ", "", text).split(";")[0].split(", ")
        )
        return [goods[0].strip()] if goods[0].strip() else []
    if relation.name == "symbol":
        return [
            s.strip() for s in re.split(r"[,;]| and ", re.sub(r"\([^)]*\)", "", text)) if s.strip()
        ][:4]
    first = re.split(r"[;(]", re.sub(r"note:.*", "", text))[0].strip().rstrip(".")
    return [first] if 0 < len(first.split()) <= 8 else []
