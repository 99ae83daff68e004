"""Is a retriever right? What every retriever keeps to, checked; for m2kr's own and for anybody's.

As a test of one's own::

    import pytest
    from m2kr.conformance import CHECKS, check_retriever
    from my_retriever import MyRetriever


    @pytest.mark.parametrize("check", CHECKS)
    def test_my_retriever(check):
        assert not check_retriever(MyRetriever, [check]).failed
"""

from m2kr.conformance.kit import CHECKS, Verdict, Verdicts, check_retriever

__all__ = ["CHECKS", "Verdict", "Verdicts", "check_retriever"]
