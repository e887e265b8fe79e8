"""What holds for a schedule beside its moments, and what of it is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from worker.schedules.policies import Policies


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ({"buffer_limit": 0}, "buffer_limit must be 1 or more, got 0"),
        ({"max_runs": 0}, "max_runs must be 1 or more, got 0"),
        ({"pause_after_failures": -1}, "pause_after_failures must be 1 or more, got -1"),
        ({"retry_lost": -1}, "retry_lost must be 0 or more, got -1"),
        ({"jitter": -timedelta(seconds=1)}, "a jitter puts runs off, it cannot be negative"),
        ({"max_age": timedelta(0)}, "max_age must be longer than nothing, got 0:00:00"),
    ],
)
def test_what_makes_no_policy_is_refused(policy: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Policies(**policy)
