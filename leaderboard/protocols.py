"""How published numbers were measured; those of two protocols are never put in one table."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClaimProtocol:
    """A way of measuring: the data, the corpus and the rule that says what is right.

    Attributes:
        title: For people.
        apart: What makes its numbers incomparable with those of others, in a sentence.
        edition: Of m2kr's data that its numbers are of; empty where m2kr has no such data.
    """

    title: str
    apart: str
    edition: str = ""


PROTOCOLS: Mapping[str, ClaimProtocol] = {
    "m2kr": ClaimProtocol(
        "M2KR",
        "The authors' release: its test questions (5,120 of most sources) searched in its own test "
        "passages; R@K counts any right passage, PR@K any passage that holds an answer. Numbers before "
        "June 2024 are of other data.",
        "m2kr",
    ),
    "m2kr-cn": ClaimProtocol(
        "M2KR in Chinese",
        "Questions and passages are machine translations, WIT is cut to a tenth and MSMARCO is another "
        "collection, so that neither the text nor the size of what is searched is M2KR's.",
    ),
    "ret-m2kr": ClaimProtocol(
        "ReT-M2KR",
        "Passages of OVEN, Infoseek, E-VQA and OKVQA have images that M2KR's don't have, and MSMARCO is "
        "left out: another corpus, so that the same R@5 means another thing.",
    ),
    "mbeir-mteb": ClaimProtocol(
        "M-BEIR and MTEB",
        "Their tasks that bear the names of OVEN, Infoseek, OKVQA or LLaVA have questions and pools of "
        "their own and are scored in their own way, in MTEB by nDCG.",
    ),
    "google-search": ClaimProtocol(
        "OKVQA, Google-Search corpus",
        "FLMR's corpus of about 168,000 web texts that Google found for these very questions: answers "
        "are far more frequent in it than in M2KR's Wikipedia passages.",
        "okvqa-gs",
    ),
    "corpus-unstated": ClaimProtocol(
        "Corpus not stated",
        "Quoted as pseudo recall on OKVQA, Infoseek and E-VQA without saying what was searched; two "
        "systems are far above all that is known on M2KR, which suggests another corpus or re-ranking.",
    ),
    "mire": ClaimProtocol(
        "MIRe",
        "MRR@5 without training on the target, on Google-Search texts, 11 million Wikipedia passages, "
        "ReMuQ and E-VQA; the PreFLMR of that table was trained anew on MIRe's data.",
    ),
    "echosight-kb": ClaimProtocol(
        "EchoSight's knowledge bases",
        "Whole Wikipedia pages are retrieved (2 million for E-VQA, 100,000 for Infoseek) and count as "
        "right by entity, not by passage.",
    ),
    "www2025-challenge": ClaimProtocol(
        "WWW 2025 challenge",
        "The mean of R@1, R@3 and R@5 over MMDocIR's pages and M2KR's screenshots together, with a "
        "recall over all right passages: neither M2KR's data nor its R@K.",
    ),
    "answering-m2kr": ClaimProtocol(
        "Answers, M2KR's questions",
        "How often a generator answers right, given passages of M2KR or none: soft accuracy on OKVQA, "
        "accuracy over M2KR's own 4,708 questions of Infoseek, BEM on E-VQA. It says little of the "
        "retriever alone.",
        "m2kr",
    ),
    "answering-google-search": ClaimProtocol(
        "Answers, Google-Search corpus",
        "Soft accuracy on OKVQA with passages from the Google-Search corpus, which hold the answer more "
        "often than M2KR's.",
        "okvqa-gs",
    ),
    "answering-unstated": ClaimProtocol(
        "Answers, corpus and scorer not stated",
        "Quoted as VQA accuracy on three sources without saying what was searched and how answers were "
        "judged.",
    ),
}
