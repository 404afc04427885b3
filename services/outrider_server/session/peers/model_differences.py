"""What is said of a target that serves something else than it did, or than another."""

from __future__ import annotations

from ...core.description import ModelDescription


def how_it_differs(
    address: str, found: ModelDescription, model: ModelDescription, arithmetic: str
) -> str:
    """What a target serves now, and what to do."""
    if found.model_fingerprint == model.model_fingerprint:
        return (
            f"the turn was begun on a target that computed otherwise than the one at {address}"
            f" ({arithmetic}, now {found.arithmetic}); start that one as it was to go on with the turn, or"
            " begin a new turn"
        )
    return (
        f"the target at {address} serves another model than when this session service started"
        f" ({differences(found, model)}); start it with that model again, or restart the session service,"
        " which then serves sessions of the new one"
    )


def differences(found: ModelDescription, model: ModelDescription) -> str:
    """In what one model differs from another."""
    names = {"name": "model", "dtype": "dtype", "quantization": "quantization"}
    pairs = ((name, getattr(found, field), getattr(model, field)) for field, name in names.items())
    different = [
        f"{name} {one or 'none'}, not {other or 'none'}"
        for name, one, other in pairs
        if one != other
    ]
    return "; ".join(different) or "other weights"
