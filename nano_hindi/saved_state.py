"""Check that a saved state is of the same form as what it is loaded into."""

from __future__ import annotations

from torch import Tensor

from nano_hindi.errors import UserError


def require_alike(found: object, expected: object, place: str) -> None:
    """Raise UserError, which names the place, if `found` differs from `expected` in type, in the
    keys of a dict, or in the shape, dtype or layout of a tensor, or if a tensor holds fewer values
    than its shape says."""
    if type(found) is not type(expected):
        raise UserError(f"{place} is a {type(found).__name__}, not a {type(expected).__name__}")
    if isinstance(found, dict) and isinstance(expected, dict):
        if different := sorted(str(key)[:60] for key in found.keys() ^ expected.keys()):
            raise UserError(f"{place}: {', '.join(different[:3])} {'is' if len(different) == 1 else 'are'} missing or unexpected")
        for key, content in expected.items():
            require_alike(found[key], content, f"{place} {key}")
    elif isinstance(found, Tensor) and isinstance(expected, Tensor):
        form, expected_form = ((tuple(t.shape), t.dtype, t.layout) for t in (found, expected))
        if form != expected_form:
            raise UserError(f"{place} is {form[1]} {form[0]} ({form[2]}), not {expected_form[1]} {expected_form[0]}")
        if found.is_meta or found.untyped_storage().nbytes() < found.nbytes:
            raise UserError(f"{place} does not hold the values of its shape {form[0]}")
