"""If: a known condition chooses when the model is lowered, a computed one at every call."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch

from onnxdfq.engine.lower import lower, tap, unsupported, write_back

x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)


def choosing(condition: str, opset: int = 17) -> onnx.ModelProto:
    """y = x * w * w + 1 or relu(x) - w, after ``condition``; a Clip bound and a shape come from around the branch."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        graph (float[2, 3] x) => (float[6] y) <
          float[3] w = {{1.0, -2.0, 0.5}}, float zero = {{0.0}}, int64[1] flat = {{-1}}, bool yes = {{1}}
        > {{
          {condition}
          before = Mul (x, w)
          chosen = If (condition) <
            then_branch = then_graph () => (float[2, 3] a) <float one = {{1.0}}> {{
              p = Mul (before, w)  a = Add (p, one) }},
            else_branch = else_graph () => (float[6] b) {{
              q = Clip (x, zero)  r = Sub (q, w)  b = Reshape (r, flat) }}
          >
          y = Reshape (chosen, flat)
        }}"""
    )


def functions(gm: torch.fx.GraphModule) -> set[str]:
    return {node.target.__name__ for node in gm.graph.nodes if node.op == "call_function"}


COMPUTED = "total = ReduceSum <keepdims = 0> (x) condition = Greater (total, zero)"


def test_a_known_condition_leaves_one_branch() -> None:
    gm = lower(choosing("condition = Identity (yes)"))
    assert "if_else" not in functions(gm)
    w = torch.tensor([1.0, -2.0, 0.5])
    (y,) = gm(torch.from_numpy(x))
    torch.testing.assert_close(y, (torch.from_numpy(x) * w * w + 1).reshape(-1))
    _, tapped = tap(gm, ["chosen"])(torch.from_numpy(x))
    assert tapped["chosen"].shape == (2, 3)


def test_a_computed_condition_chooses_at_call_time(agrees: Any) -> None:
    for image in (x, -x, np.abs(x), -np.abs(x)):
        agrees(choosing(COMPUTED), [image])
        agrees(choosing(COMPUTED), [image], input_shapes={"x": (2, 3)})


def test_gradients_reach_what_a_branch_takes_from_around_it() -> None:
    model = choosing(COMPUTED)
    gm = lower(model)
    assert {name for name, _ in gm.named_parameters()} == {"w", "zero"}  # not the one: branches keep theirs fixed
    image = torch.from_numpy(np.abs(x)).requires_grad_()
    gm(image)[0].sum().backward()
    w = gm.get_parameter("w").detach()
    torch.testing.assert_close(image.grad, (w * w).expand(2, 3))
    torch.testing.assert_close(gm.get_parameter("w").grad, (2 * w * image).sum(0).detach())
    write_back(gm, model)


def test_branches_inside_branches(agrees: Any) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        graph (float[2] x, bool first, bool second) => (float[2] y) <float[2] w = {3.0, 4.0}> {
          y = If (first) <
            then_branch = a () => (float[2] p) {
              p = If (second) <
                then_branch = b () => (float[2] q) { q = Mul (x, w) },
                else_branch = c () => (float[2] r) { r = Add (x, w) }> },
            else_branch = d () => (float[2] s) { s = Neg (x) }>
        }"""
    )
    for first in (True, False):
        for second in (True, False):
            agrees(model, [x[0, :2].copy(), np.array(first), np.array(second)])


def test_an_operator_inside_a_branch_is_reported() -> None:
    model = choosing(COMPUTED)
    model.graph.node[3].attribute[0].g.node[0].op_type = "Hann"
    (line,) = unsupported(model)
    assert "ai.onnx::Hann" in line
