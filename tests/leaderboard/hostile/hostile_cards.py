"""Cards that lie, are no YAML, or name what isn't there."""

from hostile_kit import Folder, add, refused

BIDI, ZERO_WIDTH, CONTROLS = "\u202e", "\u200b", "\x1b[31m"

# Fields of a card that hold text of a submitter.
TEXTS = (
    "title",
    "version",
    "authors/0",
    "contact",
    "licence",
    "hardware",
    "m2kr_version",
    "note",
    "training_data/0/source",
    "training_data/0/split",
    "links/paper",
    "links/code",
    "links/model",
    "links/page",
    "runs/0/cost/device",
)


def _text_case(key: str, what: str, text: str) -> None:
    def spoil(folder: Folder) -> None:
        folder.set(key, text)

    # What YAML itself must not hold is told by the line.
    add(f"{what} in {key}", ("card", "safe-yaml", "layout"), spoil)


# In no field may a text go over a line, turn the reading direction, hide, or steer a terminal.
for _key in TEXTS:
    _text_case(_key, "a line feed", "a\nb")
    _text_case(_key, "an escape", f"a{CONTROLS}b")
    _text_case(_key, "a bidirectional override", f"a{BIDI}b")
for _what, _text in {
    "a zero-width space": f"a{ZERO_WIDTH}b",
    "a NUL": "a\0b",
    "a carriage return": "a\rb",
    "a line separator": "a\u2028b",
    "a next line": "a\x85b",
    "a word joiner": "a\u2060b",
    "a byte order mark": "a\ufeffb",
    "an isolate": "a\u2066b\u2069",
    "a tag character": "a\U000e0041b",
    "a private character": "a\ue000b",
    "a noncharacter": "a\ufffeb",
    "a combining letter that isn't composed": "cafe\u0301",
    "81 characters": "x" * 81,
    "blanks at its ends": "  a ",
    "nothing": "",
    "blanks alone": "   ",
    "a hundred accents": "a" + "\u0300" * 70,
}.items():
    _text_case("title", _what, _text)
_text_case("note", "401 characters", "x" * 401)
_text_case("note", "a megabyte", "x" * 1_000_000)


def _name_case(what: str, name: str) -> None:
    def spoil(folder: Folder) -> None:
        folder.set("name", name)

    add(f"a name {what}", ("card",), spoil, ("name",))


for _what, _text in {
    "with a path": "../../etc/passwd",
    "that is absolute": "/etc/passwd",
    "with a drive": "c:\\x",
    "with a point": "..",
    "in capitals": "Spoiled",
    "with a blank": "a b",
    "with an underscore": "a_b",
    "that Windows reserves": "con",
    "that Windows reserves with a number": "lpt1",
    "of Cyrillic letters": "sp\u043eiled",  # a Cyrillic о
    "of full-width letters": "ｓpoiled",
    "that begins with a hyphen": "-rf",
    "that ends with a hyphen": "a-",
    "that is empty": "",
    "of 300 letters": "a" * 300,
    "with a tag": "<script>",
    "with a line feed at its end": "spoiled\n",
    "with Arabic digits": "spoiled\u0661",
}.items():
    _name_case(_what, _text)


@refused("layout", says="name")
def a_name_that_is_not_the_folders(folder: Folder) -> None:
    folder.set("name", "another")


@refused("layout", says="name")
def a_name_that_is_a_number(folder: Folder) -> None:
    folder.set("name", 12)


def _value_case(what: str, key: str, value: object, *checks: str) -> None:
    def spoil(folder: Folder) -> None:
        folder.set(key, value)

    add(what, checks or ("card",), spoil, (key.partition("/")[0],))


for _what, _key, _value in (
    ("another format", "format", "m2kr-submission-2"),
    ("an unknown kind", "kind", "magic"),
    ("a kind in capitals", "kind", "Fusion"),
    ("a modality that there isn't", "query_modalities", ["text", "smell"]),
    ("no modalities", "query_modalities", []),
    ("a modality twice", "passage_modalities", ["text", "text"]),
    ("modalities in one text", "query_modalities", "text"),
    ("negative parameters", "parameters", -1),
    ("parameters of 400 digits", "parameters", 10**400),
    ("parameters beyond 64 bits", "parameters", 2**80),
    ("parameters with a fraction", "parameters", 1.5),
    ("parameters that are true", "parameters", True),
    ("parameters that are no number", "parameters", float("nan")),
    ("parameters that are infinite", "parameters", float("inf")),
    ("parameters in words", "parameters", "110M"),
    ("no authors", "authors", []),
    ("authors in one text", "authors", "A, B"),
    ("an author who is a list", "authors", [["A"]]),
    ("an author twice", "authors", ["A", "A"]),
    ("10,000 authors", "authors", [f"A{i}" for i in range(10_000)]),
    ("a contact that is a script", "contact", "javascript:alert(1)"),
    ("a contact that is no address", "contact", "me"),
    ("a contact with a subject", "contact", "a@b.org?subject=x&body=y"),
    ("two contacts", "contact", "a@b.org,c@d.org"),
    ("a licence with a tag", "licence", "<b>MIT</b>"),
    ("no licence", "licence", ""),
    ("training data in words", "training_data", "none"),
    ("training data without a source", "training_data", [{"split": "train"}]),
    ("training data with further keys", "training_data", [{"source": "a", "split": "t", "x": 1}]),
    ("training data twice", "training_data", [{"source": "a"} for _ in range(2)]),
    (
        "training data twice by another name",
        "training_data",
        [{"source": "OK-VQA", "split": "valid"}, {"source": "okvqa", "split": "val"}],
    ),
    ("zero-shot flags in words", "zero_shot", {"alpha": "yes", "beta": "no"}),
    ("zero-shot flags that are numbers", "zero_shot", {"alpha": 1, "beta": 0}),
    ("a zero-shot flag of no run", "zero_shot", {"alpha": True, "beta": True, "gamma": True}),
    ("a zero-shot flag that lacks", "zero_shot", {"alpha": True}),
    ("no runs", "runs", []),
    ("runs that are a mapping", "runs", {"alpha": {}}),
    ("a run that is a text", "runs", ["alpha"]),
    ("links of another kind", "links", {"video": "https://example.org"}),
    ("links in a list", "links", ["https://example.org"]),
    ("links that are empty", "links", {"paper": ""}),
    ("a version of m2kr with a tag", "m2kr_version", "<script>"),
    ("a version of m2kr that is a number", "m2kr_version", 1),
    ("a depth of nothing", "runs/0/k", 0),
    ("a negative depth", "runs/0/k", -5),
    ("a depth in words", "runs/0/k", "100"),
    ("a depth that is true", "runs/0/k", True),
    ("a depth of a billion", "runs/0/k", 10**9),
    ("a fraction of a depth", "runs/0/k", 99.5),
    ("a hash that is none", "runs/0/run_sha256", "sha256"),
    ("a hash in capitals", "runs/0/run_sha256", "A" * 64),
    ("a fingerprint that is none", "runs/0/fingerprint", "mini"),
    ("a fingerprint with a path", "runs/0/fingerprint", "fp1:../../x"),
    ("a source with a path", "runs/0/source", "../alpha"),
    ("a source with a pattern", "runs/0/source", "*"),
    ("a split with a path", "runs/0/split", "../test"),
    ("an edition with a path", "runs/0/edition", "../../here"),
    ("an edition with a line feed", "runs/0/edition", "a\nb"),
    ("costs in a list", "runs/0/cost", [1]),
    ("an unknown cost", "runs/0/cost", {"dollars": 3}),
    ("a negative cost", "runs/0/cost", {"seconds_per_query": -1}),
    ("a cost that is no number", "runs/0/cost", {"seconds_per_query": float("nan")}),
    ("a cost that is infinite", "runs/0/cost", {"index_seconds": float("inf")}),
    ("a cost in words", "runs/0/cost", {"seconds_per_query": "fast"}),
    ("a cost that is true", "runs/0/cost", {"index_seconds": True}),
    ("a cost beyond all sense", "runs/0/cost", {"peak_host_bytes": 10**400}),
    ("scores in a list", "runs/0/scores", [0.5]),
    ("a metric without a cut-off", "runs/0/scores", {"hit_rate": 0.5}),
    ("a metric from a file", "runs/0/scores", {"evil.py:fn@5": 0.5}),
    ("a metric with a tag", "runs/0/scores", {"<b>@5": 0.5}),
    ("a claim in per cent", "runs/0/scores", {"hit_rate@5": 54.2}),
    ("a negative claim", "runs/0/scores", {"hit_rate@5": -0.1}),
    ("a claim that is no number", "runs/0/scores", {"hit_rate@5": float("nan")}),
    ("a claim that is infinite", "runs/0/scores", {"hit_rate@5": float("inf")}),
    ("a claim in words", "runs/0/scores", {"hit_rate@5": "high"}),
    ("a claim that is true", "runs/0/scores", {"hit_rate@5": True}),
    ("a claim of nothing", "runs/0/scores", {"hit_rate@5": None}),
):
    _value_case(_what, _key, _value)


@refused("card", says=("zero_shot.beta", "true", "the training data hold Beta"))
def a_zero_shot_claim_beside_training_data_of_that_source(folder: Folder) -> None:
    folder.set("training_data", [{"source": "elsewhere"}, {"source": "Beta", "split": "train"}])


for _what, _metric in {
    "an unknown metric": "accuracy@5",
    "a bare recall": "recall@5",
    "a metric deeper than the run": "hit_rate@500",
}.items():
    _value_case(_what, "runs/0/scores", {_metric: 0.5}, "claimed-metrics")

for _what, _link in {
    "a script": "javascript:alert(1)",
    "a script in capitals": "JaVaScRiPt:alert(1)",
    "data": "data:text/html,<script>alert(1)</script>",
    "a file": "file:///etc/passwd",
    "plain http": "http://example.org",
    "no host": "https:///x",
    "credentials": "https://user:secret@example.org/",
    "a name before the host": "https://github.com@example.org/",
    "another alphabet": "https://g\u0456thub.com/",
    "punycode": "https://xn--gthub-cub.com/",
    "a port": "https://example.org:22/",
    "a backslash": "https://example.org\\@evil.org/",
    "a blank": "https://example.org/a b",
    "a quote": 'https://example.org/"onmouseover="alert(1)',
    "a tag": "https://example.org/<script>",
    "an address in numbers": "https://127.0.0.1/",
    "one number": "https://2130706433/",
    "IPv6": "https://[::1]/",
    "this machine": "https://localhost/",
    "no scheme": "//example.org/",
    "a page beside": "../../index.html",
    "3,000 characters": "https://example.org/" + "a" * 3_000,
}.items():
    _value_case(f"a link with {_what}", "links/paper", _link)


@refused("card", says="format")
def no_format(folder: Folder) -> None:
    folder.drop("format")


@refused("card", says="password")
def a_further_key(folder: Folder) -> None:
    folder.set("password", "x")


@refused("card", says="status")
def a_status_of_ones_own(folder: Folder) -> None:
    folder.set("status", "reproduced")


@refused("card")
def a_key_that_is_a_number(folder: Folder) -> None:
    folder.set("1", "x")
    folder.retext("'1':", "1:")


for _key in ("name", "title", "version", "authors", "contact", "licence", "kind", "runs"):

    def _without(folder: Folder, key: str = _key) -> None:
        folder.drop(key)

    add(f"no {_key} in a card", ("card",), _without, (_key,))
for _key in ("source", "split", "edition", "file", "fingerprint", "k", "run_sha256"):

    def _run_without(folder: Folder, key: str = _key) -> None:
        folder.drop(f"runs/0/{key}")

    add(f"a run without {_key}", ("card",), _run_without, (_key,))


def _raw_case(what: str, text: str | bytes, *checks: str, says: tuple[str, ...] = ()) -> None:
    def spoil(folder: Folder) -> None:
        folder.card_path.write_bytes(text.encode() if isinstance(text, str) else text)

    add(f"a card that is {what}", checks or ("safe-yaml", "layout"), spoil, says)


_DEEP = 5_000
for _what, _raw in {
    "empty": "",
    "a comment": "# nothing\n",
    "a list": "- name: x\n",
    "a text": "name",
    "two documents": "name: a\n---\nname: b\n",
    "UTF-16": "name: a\n".encode("utf-16"),
    "UTF-32": "name: a\n".encode("utf-32"),
    "Latin-1": "title: café\n".encode("latin-1"),
    "half a surrogate": b"title: \xed\xa0\x80\n",
    "NUL bytes": b"name: a\0b\n",
    "random bytes": bytes(range(256)),
    "JSON with a repeated key": '{"name": "a", "name": "b"}',
    "a million brackets": "[" * 1_000_000,
    "nested by flows": "a: " + "[" * _DEEP + "]" * _DEEP,
    "nested by mappings": "".join(" " * i + "a:\n" for i in range(300)),
    "nested by dashes": "- " * _DEEP + "x",
    "300 kB": "note: " + "x" * 300_000,
    "a million keys": "".join(f"k{i}: 1\n" for i in range(100_000)),
    "one long key": "x" * 200_000 + ": 1\n",
    "a Python object": "name: !!python/object/apply:os.system ['touch /tmp/m2kr-pwned']\n",
    "a new Python object": "!!python/object/new:subprocess.Popen [['touch', '/tmp/m2kr-pwned']]\n",
    "a Python name": "name: !!python/name:os.system\n",
    "a Python module": "name: !!python/module:os\n",
    "binary": "name: !!binary aGVsbG8=\n",
    "a set": "name: !!set {a, b}\n",
    "pairs": "name: !!pairs [a: 1, a: 2]\n",
    "a tag of its own": "name: !own x\n",
    "a tag by its whole name": "name: !<tag:yaml.org,2002:python/object:x> {}\n",
    "a timestamp": "name: !!timestamp 2026-12-01\n",
    "an integer by a tag": "name: !!int '12'\n",
    "a directive": "%YAML 9.9\n---\nname: a\n",
    "a tab": "name:\n\t- a\n",
    "an open quote": 'name: "a\n',
    "a key of a list": "? [a, b]\n: c\n",
    "a key of a mapping": "? {a: b}\n: c\n",
    "an alias of nothing": "name: *nothing\n",
}.items():
    _raw_case(_what, _raw)


@refused("safe-yaml", says="twice")
def a_key_twice(folder: Folder) -> None:
    folder.retext("kind:", "kind: fusion\nkind:")


@refused("safe-yaml", says="twice")
def a_key_twice_within_a_run(folder: Folder) -> None:
    folder.retext("  k: 100", "  k: 100\n  k: 500")


@refused("safe-yaml", says="twice")
def a_key_twice_in_another_spelling(folder: Folder) -> None:
    folder.retext("kind:", '"kin\\x64": fusion\nkind:')


@refused("safe-yaml")
def an_alias(folder: Folder) -> None:
    folder.retext("title: ", "title: &t ")
    folder.set("note", "x")
    folder.retext("note: x", "note: *t")
    folder.retext("title: ", "title: &t ")


@refused("safe-yaml")
def a_billion_laughs(folder: Folder) -> None:
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    text = folder.card_path.read_text(encoding="utf-8")
    folder.card_path.write_text("\n".join(lines) + "\n" + text, encoding="utf-8")


@refused("safe-yaml")
def a_loop_of_aliases(folder: Folder) -> None:
    folder.retext("authors:", "loop: &l [*l]\nauthors:")


@refused("safe-yaml")
def a_merge_key(folder: Folder) -> None:
    folder.retext("kind:", "<<: {kind: fusion}\nkind:")


@refused("safe-yaml")
def a_merge_key_of_many(folder: Folder) -> None:
    folder.retext("kind:", "b: &b {title: other}\n<<: [*b, *b]\nkind:")


def _bare(what: str, key: str, word: str) -> None:
    """A word that YAML takes for something else than text, where a text belongs."""

    def spoil(folder: Folder) -> None:
        folder.set(key, "BARE")
        folder.retext("BARE", word)

    add(what, ("card",), spoil)


# What must not be read as another value than is written: in numbers and flags.
_bare("parameters in octal", "parameters", "0o17")
_bare("parameters with a leading zero", "parameters", "010")
_bare("parameters in hexadecimal", "parameters", "0x1F")
_bare("parameters in sixties", "parameters", "1:30")
_bare("parameters with underscores", "parameters", "1_000")
_bare("parameters with an exponent", "parameters", "1e400")
_bare("a flag that is yes", "zero_shot/alpha", "'yes'")
_bare("a flag that is on", "zero_shot/alpha", "'on'")
_bare("a claim with a comma", "runs/0/scores/hit_rate@5", "0,5")
_bare("a claim in sixties", "runs/0/scores/hit_rate@5", "1:30.5")
