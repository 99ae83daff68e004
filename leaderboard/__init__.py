"""The leaderboard: submissions, their checks and recomputation, boards, the ledger of claims, its site."""
