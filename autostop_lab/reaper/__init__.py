"""Whose process is it, and what to do with those of a session that nobody else ends. Stdlib only.

Three rings hold the promise that nothing outlives its owner. The first is the supervisor, in the owner itself. The
second is the reaper: a process beside the owner that learns of its death and ends what it has left (`loop`, told by
`guard`). The third is a journal on disk: when owner and reaper died together, the next session's reaper ends what
the journal names (`sweep`).
"""
