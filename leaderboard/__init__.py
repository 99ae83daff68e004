"""The leaderboard: submissions, their validation and recomputation. Grows with its own issue."""
