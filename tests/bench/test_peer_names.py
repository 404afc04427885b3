"""Peers and modes that a run leaves out, by their names."""

from __future__ import annotations

import pytest
from outrider_bench.options import left_out
from outrider_bench.peer_names import every_name
from outrider_bench.peer_options import PeerOptions
from outrider_bench.weights import weights_of
from outrider_server.core.errors import StartupError


def options(*without: str, others: bool = True) -> PeerOptions:
    return PeerOptions(weights_of(16), others, without=without)


def test_a_peer_is_left_out_with_all_its_modes() -> None:
    found = options("transformers")
    assert not found.takes("transformers")
    assert not found.takes("transformers assisted 3")
    assert found.takes("llama.cpp plain")
    assert found.notes == ["left out: transformers"]


def test_a_mode_is_left_out_alone() -> None:
    found = options("transformers static", "llama.cpp draft 3")
    assert found.takes("transformers")
    assert found.takes("transformers plain")
    assert not found.takes("transformers static compiled")
    assert not found.takes("llama.cpp draft 3")
    assert found.takes("llama.cpp draft 8")


def test_whole_words_are_meant() -> None:
    assert options("openvino draft").takes("openvino plain")
    with pytest.raises(StartupError, match=r"there is no peer llama\.cpp dra to leave out"):
        options("llama.cpp dra")


def test_every_mode_may_be_left_out() -> None:
    assert len(set(every_name())) == len(every_name())
    for name in every_name():
        assert not options(name).takes(name)


def test_without_peers_nothing_competes_and_nothing_is_told() -> None:
    found = options("transformers", others=False)
    assert not found.takes("llama.cpp")
    assert found.notes == []


def test_none_leaves_nothing_out() -> None:
    assert left_out(None, ("usual",)) == ("usual",)
    assert left_out(["none"], ("usual",)) == ()
    assert left_out(["one", "two"], ("usual",)) == ("one", "two")
