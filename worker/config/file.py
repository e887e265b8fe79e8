"""Reads a configuration file: TOML, or YAML where PyYAML is installed."""

from __future__ import annotations

import tomllib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from worker.errors import ConfigurationError, installing

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_config", "wrong"]


def read_config(setting: str, path: Path, expected: str) -> dict[str, Any]:
    """What the file says.

    Args:
        setting: That names the file, for messages.
        expected: What it should hold, for messages.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as exc:
        raise wrong(setting, path, [f"cannot be read: {exc.strerror}"]) from exc
    except UnicodeDecodeError as exc:
        raise wrong(setting, path, ["it is not UTF-8 text"]) from exc
    if path.suffix.lower() == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise wrong(setting, path, [f"it is no TOML: {exc}"]) from exc
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_yaml(setting, path, text, expected)
    raise wrong(
        setting, path, [f"expected a name that ends in .toml, .yaml or .yml, got {path.name!r}"]
    )


def read_yaml(setting: str, path: Path, text: str, expected: str) -> dict[str, Any]:
    try:
        yaml = import_module("yaml")
    except ModuleNotFoundError as exc:
        raise wrong(
            setting,
            path,
            [f"YAML needs PyYAML: {installing('yaml')}; or write it as TOML"],
        ) from exc
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as exc:  # a moment that is none is a ValueError
        raise wrong(setting, path, [f"it is no YAML: {exc}"]) from exc
    if not isinstance(content, dict):
        raise wrong(setting, path, [expected])
    return content


def wrong(setting: str, path: Path, problems: list[str]) -> ConfigurationError:
    """The error that names each of ``problems``, and the file they are in."""
    return ConfigurationError([f"{setting} {path}: {problem}" for problem in problems])
