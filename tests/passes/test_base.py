"""Passes run in order, tell what they did, and say where they failed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs
import pytest

from passes.base import Pass, PassError, PassResult, Skip, run_passes


@dataclass(frozen=True)
class Append(Pass):
    """Appends a word to the graph's name."""

    name: ClassVar[str] = "append"
    word: str = "a"

    def __call__(self, graph: gs.Graph) -> PassResult:
        graph.name += self.word
        return PassResult(1, (Skip("node", self.name, f"said {self.word}"),))


@dataclass(frozen=True)
class Fail(Pass):
    name: ClassVar[str] = "fail"

    def __call__(self, graph: gs.Graph) -> PassResult:
        raise KeyError("no such tensor")


@dataclass(frozen=True)
class Silent(Pass):
    name: ClassVar[str] = "silent"


def test_passes_run_in_order_on_one_graph_and_results_keep_the_order():
    graph = gs.Graph(name="_")
    results = run_passes(graph, [Append("x"), Append("y"), Append("z")])
    assert graph.name == "_xyz"
    assert [result.skips[0].reason for result in results] == ["said x", "said y", "said z"]


def test_passes_may_come_from_a_generator_and_may_be_none_at_all():
    graph = gs.Graph(name="_")
    assert len(run_passes(graph, (Append(word) for word in "pq"))) == 2
    assert graph.name == "_pq"
    assert run_passes(graph, []) == []


def test_the_listener_hears_of_each_pass_right_after_it():
    graph, heard = gs.Graph(name="_"), []
    results = run_passes(
        graph, [Append("x"), Append("y")], lambda step, result: heard.append((step, result, graph.name))
    )
    assert heard == [(Append("x"), results[0], "_x"), (Append("y"), results[1], "_xy")]


def test_a_failure_names_the_pass_and_those_before_it_and_keeps_the_cause():
    graph, heard = gs.Graph(name="_"), []
    with pytest.raises(PassError) as caught:
        run_passes(graph, [Append(), Append("b"), Fail(), Append("c")], lambda step, _: heard.append(step))
    message = str(caught.value)
    assert message.startswith("pass fail failed after append, append: ")
    assert "no such tensor" in message
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(heard) == 2  # not of the one that failed
    assert graph.name == "_ab"  # and nothing ran after it


def test_the_first_pass_to_fail_has_none_before_it():
    with pytest.raises(PassError, match=r"^pass fail failed: "):
        run_passes(gs.Graph(), [Fail()])


def test_a_pass_that_does_nothing_says_so():
    with pytest.raises(TypeError, match="Silent"):
        Silent()(gs.Graph())


def test_options_cannot_change_and_equal_options_make_equal_passes():
    assert Append("q") == Append("q") != Append("r")
    with pytest.raises(FrozenInstanceError):
        Append().word = "b"


def test_the_default_result_is_that_nothing_changed():
    assert PassResult() == PassResult(0, ())
