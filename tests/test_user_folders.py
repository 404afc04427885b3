"""Folders of the user: by the XDG variables, below the home folder, or nowhere."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
from outrider_server.config import default_ledger
from outrider_server.core.errors import StartupError
from outrider_server.user_folders import cache_folder, data_folder, with_home


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_a_user_without_a_home_is_told_what_to_set(
    no_variables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> pwd.struct_passwd:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for folder in (data_folder, default_ledger):
        with pytest.raises(StartupError, match="set HOME or XDG_DATA_HOME"):
            folder()
    with pytest.raises(StartupError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()


def test_folders_are_where_the_variables_say(
    no_variables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of")
    assert data_folder() == Path("/home/of/.local/share/outrider")
    assert cache_folder() == Path("/home/of/.cache/outrider")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cached")
    assert cache_folder() == Path("/home/of/cached/outrider")


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("~/large", "/home/of/large"),
        ("--model=~/large", "/home/of/large"),
        ("--ledger=~/a=~", "/home/of/a=~"),
        ("--ledger=postgresql://u@h/d?x=~", "postgresql://u@h/d?x=~"),
        ("--model", "--model"),
        ("x=~/y", "x=~/y"),
    ],
)
def test_a_home_folder_may_be_written_short(
    argument: str, expanded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of")
    option = (
        argument.partition("=")[0] + "=" if argument.startswith("--") and "=" in argument else ""
    )
    assert with_home(argument) == option + expanded
