"""Names that look like a misspelt one."""

import difflib

_CLOSE = 0.8
"""Likeness (difflib) from which a name is taken for a misspelt one: `gradient_cliping` has 0.97."""
_LONGER = 4
"""Letters by which a misspelt name may differ in length, unless one begins with the other."""
_LONG = 8
"""Letters from which the end of a known name is enough."""


def nearest(name: str, known: list[str], *, cutoff: float = _CLOSE) -> str | None:
    """The known name that looks most like it, if one does; letter case counts for nothing."""
    lowered, plain = {one.lower(): one for one in known}, name.lower().replace("-", "_")
    for close in difflib.get_close_matches(plain, lowered, n=3, cutoff=cutoff):
        # `pipe_partition_method` is no `pipe_partitioned`; `offload_parameters` is `offload_param`.
        begins = plain.startswith(close) or close.startswith(plain)
        if cutoff < _CLOSE or begins or abs(len(plain) - len(close)) <= _LONGER:
            return lowered[close]
    # `micro_batch_size_per_gpu`, `multinode_launcher`: the right name without its first word.
    longer = [one for key, one in lowered.items() if key.endswith(f"_{plain}")]
    return longer[0] if len(longer) == 1 and len(plain) >= _LONG else None
