"""PreFLMR (Lin et al., 2024): late interaction of question, instruction and image with passages."""

from m2kr.retrievers._late_interaction import LateInteraction


class PreFLMRRetriever(LateInteraction):
    """Ranks passages by MaxSim over all rows of a PreFLMR query.

    This is the official protocol up to the search: queries begin with their instruction, whose rows
    don't count; a query without image shows a black one; passages are texts of up to 512 tokens. The
    official search looks at 32 rows of a query first; here every row meets every passage.

    The settings are those of `LateInteraction`.
    """

    name = "preflmr"
    released = "LinWeizheDragon/PreFLMR_ViT-L"
    instructed = True


RETRIEVER = PreFLMRRetriever
