"""ONNX's own node tests through the Backend, and models as PyTorch exports them."""
# SPDX-License-Identifier: Apache-2.0

import io
import warnings

import numpy as np
import pytest

import rnncore
import rnncore.io.onnx

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.peers

# Operators of which every node test of a floating, integer or bool type must pass.
WHOLE = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool Ceil Clip Concat Constant
ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DequantizeLinear Div DynamicQuantizeLinear
Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm
GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Identity
InstanceNormalization IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
LpNormalization MatMul MatMulInteger Max Mean Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad
Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape ReverseSequence Round
ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
""".split()
RECURRENT = ("LSTM", "GRU", "RNN")
# Refused, by a name that the message must hold: types, outputs and modes that are not supported.
REFUSED = ("element type", "a sequence", "optional", "has 2 outputs, expected 1 to 1", "block_size")


def node_tests(names):
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            case
            for case in load_model_tests(kind="node")
            if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in names
        ]


def check(case):
    """Run a case twice: the call that makes the plan, then another."""
    model = rnncore.io.onnx.Backend.prepare(case.model)
    for inputs, expected in case.data_sets:
        for _ in range(2):
            found = model.run(inputs)
            assert len(found) == len(expected)
            for array, right in zip(found, expected, strict=True):
                right = np.asarray(right)
                if right.dtype.name == "bfloat16":
                    right = right.astype(np.float32)
                assert array.shape == right.shape, case.name
                assert array.dtype == right.dtype, case.name
                np.testing.assert_allclose(
                    array, right, rtol=case.rtol, atol=case.atol, err_msg=case.name
                )


def test_recurrent_node_tests():
    cases = node_tests(RECURRENT)
    for case in cases:
        check(case)
    assert len(cases) >= 12  # 18 from onnx 1.23 on


def test_node_tests_of_the_graph_around():
    passed = 0
    for case in node_tests(WHOLE):
        reason = refusal(case)
        if reason is None:
            check(case)
            passed += 1
        elif not any(named in reason for named in REFUSED):
            pytest.fail(f"{case.name}: {reason}")
    assert passed > 500


def refusal(case):
    """Why a case is refused, or None."""
    try:
        rnncore.io.onnx.Backend.prepare(case.model)
    except ValueError as error:
        return str(error)
    return None


def test_backend():
    backend = rnncore.io.onnx.Backend
    assert issubclass(backend, onnx.backend.base.Backend)
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA:0")
    with pytest.raises(ValueError, match="device is 'CUDA'"):
        backend.prepare(node_tests(["Relu"])[0].model, "CUDA")
    node = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=2)
    arrays = [np.ones(s, "f4") for s in ((3, 1, 4), (1, 8, 4), (1, 8, 2))]
    (h,) = backend.run_node(node, arrays)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "g",
            [onnx.helper.make_tensor_value_info(n, 1, None) for n in "xwr"],
            [onnx.helper.make_tensor_value_info("h", 1, None)],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    np.testing.assert_array_equal(h, backend.run_model(model, arrays)[0])
    assert backend.is_compatible(model)
    model.graph.node[0].op_type = "Loop"
    assert not backend.is_compatible(model)


# ---- PyTorch ------------------------------------------------------------------------------------


def exported(module, arguments, inputs, outputs, axes):
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), arguments, file, input_names=inputs, output_names=outputs,
            dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
    return file.getvalue()


def tagger(kind, bidirectional, batch_first, layers=2):
    """An embedding, recurrent layers and a linear one."""
    torch = pytest.importorskip("torch")

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(11, 6)
            self.recurrent = getattr(torch.nn, kind)(
                6, 5, layers, bidirectional=bidirectional, batch_first=batch_first
            )
            self.linear = torch.nn.Linear(10 if bidirectional else 5, 4)

        def forward(self, x):
            return torch.relu(self.linear(self.recurrent(self.embedding(x))[0]))

    torch.manual_seed(1)
    return Tagger()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", RECURRENT)
def test_models_of_pytorch(kind, bidirectional, batch_first, tmp_path):
    torch = pytest.importorskip("torch")
    module = tagger(kind, bidirectional, batch_first)
    example = torch.randint(0, 11, (7, 3))
    data = exported(module, (example,), ["x"], ["y"], {"x": {0: "a", 1: "b"}})
    model = rnncore.io.onnx.from_onnx(data)
    ours = model.module()
    assert [type(m).__name__ for m in ours] == ["Embedding", kind, kind, "Linear", "ReLU"]
    assert ours[1].batch_first == batch_first
    rnncore.save(ours, tmp_path / "model.safetensors")
    session = rnncore.Session(tmp_path / "model.safetensors")
    for shape in ((7, 3), (2, 5), (7, 3)):
        x = torch.randint(0, 11, shape)
        with torch.no_grad():
            expected = module(x).numpy()
        for found in (model(x.numpy()), ours(x.numpy()).data, session.run(x.numpy())):
            np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("kind", RECURRENT)
def test_states_of_pytorch(kind):
    torch = pytest.importorskip("torch")

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = getattr(torch.nn, kind)(6, 5, 2)

        def forward(self, x, *states):
            return self.recurrent(x, states if len(states) == 2 else states[0])

    module = Step()
    names = ["h", "c"] if kind == "LSTM" else ["h"]
    arrays = [torch.randn(7, 3, 6), *(torch.randn(2, 3, 5) for _ in names)]
    axes = {"x": {0: "steps", 1: "batch"}, **{name: {1: "batch"} for name in names}}
    model = rnncore.io.onnx.from_onnx(exported(module, tuple(arrays), ["x", *names], None, axes))
    with torch.no_grad():
        y, states = module(*arrays)
    expected = [y, *(states if kind == "LSTM" else [states])]
    for _ in range(2):
        for found, right in zip(model(*(a.numpy() for a in arrays)), expected, strict=True):
            np.testing.assert_allclose(found, right.numpy(), atol=1e-6)


def test_a_model_that_is_no_chain_says_why():
    torch = pytest.importorskip("torch")

    class Largest(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = torch.nn.GRU(6, 5)

        def forward(self, x):
            return self.recurrent(x)[0].amax(0)

    data = exported(Largest(), (torch.randn(7, 3, 6),), ["x"], ["y"], {"x": {0: "t", 1: "b"}})
    model = rnncore.io.onnx.from_onnx(data)
    with pytest.raises(ValueError, match=r"ReduceMax .* has no place in a chain of layers"):
        model.module()


def of_function(layer, function):
    """A module of PyTorch that has a layer, and computes a function of it and an input."""
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer
            self.last = torch.nn.Linear(5, 2)

        def forward(self, x):
            return function(self, x)

    return Module()


def agrees(module, shape):
    """Ours of what PyTorch exports of a module, after a comparison."""
    torch = pytest.importorskip("torch")
    example = torch.randn(shape)
    data = exported(module, (example,), ["x"], ["y"], {"x": {0: "a", 1: "b"}})
    ours = rnncore.io.onnx.from_onnx(data).module()
    with torch.no_grad():
        np.testing.assert_allclose(ours(example.numpy()).data, module(example), atol=2e-6)
    return ours


HEADS = {
    "step": (1, False, lambda m, x: m.last(m.layer(x)[0][-1])),
    "step-batch": (2, True, lambda m, x: m.last(m.layer(x)[0][:, -1])),
    "part": (1, True, lambda m, x: m.last(m.layer(x)[0][:, -1:, :].squeeze(1))),
    "state": (1, False, lambda m, x: m.last(m.layer(x)[1][0])),
    "state-last": (2, True, lambda m, x: m.last(m.layer(x)[1][-1]).relu()),
    "state-alone": (3, False, lambda m, x: m.layer(x)[1][-1]),
}


@pytest.mark.parametrize("head", HEADS)
def test_last_steps_of_pytorch(head):
    torch = pytest.importorskip("torch")
    layers, batch_first, function = HEADS[head]
    torch.manual_seed(1)
    module = of_function(torch.nn.GRU(6, 5, layers, batch_first=batch_first), function)
    ours = agrees(module, (7, 3, 6))
    assert [type(m).__name__ for m in ours][: layers + 1] == ["GRU"] * layers + ["LastStep"]


@pytest.mark.parametrize("layers", [1, 2])
def test_final_states_of_both_directions_of_pytorch(layers):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    layer = torch.nn.LSTM(6, 5, layers, bidirectional=True)

    def function(m, x):
        h = m.layer(x)[1][0]
        return torch.cat([h[-2], h[-1]], 1).tanh()

    ours = agrees(of_function(layer, function), (7, 3, 6))
    assert ours[layers].bidirectional
    assert [type(m).__name__ for m in ours] == ["LSTM"] * layers + ["LastStep", "Tanh"]


def test_the_wrong_final_state_is_no_last_step():
    torch = pytest.importorskip("torch")
    module = of_function(torch.nn.GRU(6, 5, bidirectional=True), lambda m, x: m.layer(x)[1][0])
    with pytest.raises(ValueError, match="not the chain of its layers"):
        agrees(module, (7, 3, 6))


ACTIVATIONS = (
    "GELU()", "GELU('tanh')", "SiLU()", "LogSigmoid()", "Hardtanh(-0.2, 0.7)", "Softsign()",
    "Softplus()", "Softplus(2.5)", "ELU(0.3)", "LeakyReLU(0.2)", "Hardsigmoid()", "ReLU6()",
    "Softmax(-1)", "LogSoftmax(2)",
)  # fmt: skip


@pytest.mark.parametrize("text", ACTIVATIONS)
def test_activations_of_pytorch(text):
    torch = pytest.importorskip("torch")
    layer = eval(f"nn.{text}", {"nn": torch.nn})
    first = torch.nn.Linear(6, 5)
    ours = agrees(torch.nn.Sequential(first, layer, torch.nn.Tanh()), (7, 3, 6))
    name = {"ReLU6": "Hardtanh"}.get(text.partition("(")[0], text.partition("(")[0])
    assert [type(m).__name__ for m in ours] == ["Linear", name, "Tanh"]


@pytest.mark.parametrize("text", ["Mish()", "Hardswish()", "SELU()", "Softmax(1)"])
def test_activations_that_ours_are_not(text):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), eval(f"nn.{text}", {"nn": torch.nn}))
    with pytest.raises(ValueError, match=r"no place in a chain|not the chain"):
        agrees(module, (7, 3, 6))


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "bias": False}, {"dilation": 2, "groups": 2}]
)
def test_convolutions_of_pytorch(options):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    conv = torch.nn.Conv1d(6, 4, 3, padding=1, **options)
    norm = torch.nn.BatchNorm1d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)

    module = of_function(
        torch.nn.Sequential(conv, torch.nn.Tanh(), norm),
        lambda m, x: torch.relu(m.layer(x.transpose(1, 2))).transpose(1, 2),
    )
    ours = agrees(module, (3, 9, 6))
    names = [type(m).__name__ for m in ours]
    assert names == ["Conv1d", "Tanh", "BatchNorm1d", "ReLU"]
    np.testing.assert_array_equal(ours[2].running_var, norm.running_var)
    assert ours[0].batch_first


def test_a_padded_convolution_of_pytorch():
    """As causal convolutions are written there."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)

    def function(m, x):
        padded = torch.nn.functional.pad(x.transpose(1, 2), (4, 0))
        return m.layer(padded).relu().transpose(1, 2)

    ours = agrees(of_function(torch.nn.Conv1d(6, 4, 3, dilation=2), function), (3, 9, 6))
    assert [type(m).__name__ for m in ours] == ["Conv1d", "ReLU"]
    assert ours[0].pads == (4, 0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_padding_that_no_convolution_takes(value):
    torch = pytest.importorskip("torch")

    def function(m, x):
        padded = torch.nn.functional.pad(x.transpose(1, 2), (4, 0), value=value)
        return m.layer(padded).transpose(1, 2)

    layer = torch.nn.Conv1d(6, 4, 3) if value else torch.nn.Tanh()
    with pytest.raises(ValueError, match=r"Pad .*has no place"):
        agrees(of_function(layer, function), (3, 9, 6))
