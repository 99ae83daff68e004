"""FLMR (Lin et al., 2023): late interaction of a question and an image's regions with passages."""

from m2kr.retrievers._late_interaction import LateInteraction


class FLMRRetriever(LateInteraction):
    """Ranks passages by MaxSim over all rows of an FLMR query.

    FLMR was made for a question, the whole image, nine detected regions of it, and text that a
    captioner, an object detector and OCR read off it. M2KR's tables hold neither regions nor such
    text: a query here is the question and the whole image, so scores don't compare with the paper's.

    It has no instruction mask and was trained without instructions; one is read only where there is
    no question. The settings are those of `LateInteraction`.
    """

    name = "flmr"
    released = "LinWeizheDragon/FLMR"
    instructed = False


RETRIEVER = FLMRRetriever
