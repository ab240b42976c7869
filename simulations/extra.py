"""What only the simulations need is an extra of the package, and may not be installed."""

from __future__ import annotations

from importlib.util import find_spec

from branchynet.errors import SettingsError

__all__ = ["need"]


def need(*modules: str) -> None:
    """Raise `SettingsError`, saying how to install them, unless all of *modules* are there; imports none of them."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise SettingsError(f"{', '.join(missing)} is not installed: pip install 'branchynet[simulations]'")
