"""Replicas of the whole service under Ray Serve: `serve run llamastream.ray:build store=...`.

What schedules, places, heals and scales is Ray; what a replica has in hand is in the database.
Needs the extra `ray`.
"""

from llamastream.ray.deployment import build

__all__ = ["build"]
