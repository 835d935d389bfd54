"""PyTorch's own files, state_dicts and modules, read and run here and given back."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

import rnncore
from rnncore import nn
from rnncore.io.torch import from_torch, read_torch, to_torch

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

FORMATS = pytest.mark.parametrize("zipped", [True, False])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def save(value, path, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)


def as_array(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128"


@FORMATS
@pytest.mark.parametrize("name", DTYPES.split())
def test_tensors_of_every_type_and_form(path, zipped, name):
    base = (torch.rand(4, 6) * 100).to(getattr(torch, name))
    tensors = {
        "whole": base,
        "transposed": base.t(),
        "part": base[1:3, ::2],
        "empty": base[:0],
        "scalar": base[0, 0],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    save(tensors, path, zipped)
    found = read_torch(path)
    assert list(found) == list(tensors)
    for key, tensor in tensors.items():
        expected = as_array(tensor)
        assert (found[key].dtype, found[key].shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found[key], expected)


@pytest.mark.parametrize("name", ["uint16", "uint32", "uint64"])
def test_types_of_the_newer_format_alone(path, name):
    tensor = torch.arange(5).to(getattr(torch, name))
    save({"a": tensor}, path)
    assert np.array_equal(read_torch(path)["a"], tensor.numpy())


@FORMATS
def test_a_checkpoint_with_everything(path, zipped):
    model = torch.nn.LSTM(3, 5, 2, bidirectional=True)
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [1, 2])
    model(torch.ones(2, 2, 3))[0].sum().backward()
    optimiser.step()
    checkpoint = {
        "epoch": 3,
        "loss": np.float64(3.5),
        "model_state_dict": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "args": {"lr": 1e-3, "sizes": (1, 2), "device": torch.device("cpu"), "tags": {"a"}},
        "type": torch.float32,
    }
    save(checkpoint, path, zipped)
    found = read_torch(path)
    assert list(found) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert np.array_equal(found[name], tensor.numpy())


def test_without_checksums(path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save({"a": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert np.array_equal(read_torch(path)["a"], np.ones(3))


@FORMATS
def test_modules_are_refused_by_name(path, zipped):
    save(torch.nn.LSTM(3, 5), path, zipped)
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.rnn\.LSTM, which"):
        read_torch(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(4, 1, 3))]
)
def test_programs_give_the_arrays_of_their_modules(path, make):
    module = torch.nn.Sequential()
    module.add_module("inner", torch.nn.Linear(3, 5))
    module.add_module("norm", torch.nn.BatchNorm1d(1))
    torch.jit.save(make(module.eval()), path)
    found = read_torch(path)
    assert {n: a.tolist() for n, a in found.items()} == {
        n: t.tolist() for n, t in module.state_dict().items()
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::DeprecationWarning")
def test_a_program_becomes_a_model(path):
    module = torch.nn.LSTM(3, 5, 2, bidirectional=True)
    torch.jit.save(torch.jit.script(module), path)
    assert repr(from_torch(path)) == "LSTM(3, 5, num_layers=2, bidirectional=True)"
    for name, array in from_torch(path).state_dict().items():
        assert np.array_equal(array, module.state_dict()[name].numpy())


@FORMATS
def test_views_of_other_numbers_are_refused(path, zipped):
    """The file has the numbers as they lie in memory, and a bit that says how to read them."""
    pairs = torch.randn(3, dtype=torch.complex64).conj()
    for view, name in ((pairs, "conj"), (pairs.imag, "neg")):
        save({"a": view}, path, zipped)
        with pytest.raises(ValueError, match=rf"a view of other numbers \({name}\)"):
            read_torch(path)
        save({"a": view.clone()}, path, zipped)
        assert np.array_equal(read_torch(path)["a"], view.resolve_conj().resolve_neg().numpy())


def test_sparse_and_quantised_tensors_are_refused_by_name(path):
    save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(ValueError, match=r"_rebuild_sparse_tensor|_get_layout"):
        read_torch(path)


# ---- modules ------------------------------------------------------------------------------------

CHAIN = (
    lambda: torch.nn.Embedding(11, 6, padding_idx=2),
    lambda: torch.nn.GRU(6, 5, 2, bidirectional=True),
    lambda: torch.nn.LayerNorm(10, eps=1e-3),
    lambda: torch.nn.Linear(10, 7),
    lambda: torch.nn.ReLU(),
    lambda: torch.nn.Linear(7, 4, bias=False),
)


def test_a_live_sequential_gives_the_same_numbers(path):
    layers = [make() for make in CHAIN]
    ours = from_torch(torch.nn.Sequential(*layers))
    tokens = torch.randint(0, 11, (8, 3))
    x = tokens
    for layer in layers:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
    expected = x.detach().numpy()
    assert np.abs(ours(tokens.numpy()).numpy() - expected).max() < 1e-5
    assert np.abs(rnncore.Session(ours).run(tokens.numpy()) - expected).max() < 1e-5
    assert (ours[0].padding_idx, ours[2].eps) == (2, 1e-3)
    save(torch.nn.Sequential(*layers).state_dict(), path)
    described = from_torch(path, ours)
    assert np.array_equal(described(tokens.numpy()).numpy(), ours(tokens.numpy()).numpy())


RECURRENT = [
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"proj_size": 3, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"bias": False, "dtype": torch.float64}),
    ("GRU", {"num_layers": 3, "dropout": 0.25}),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    ("RNN", {}),
]


@pytest.mark.parametrize(("kind", "options"), RECURRENT)
def test_recurrent_modules_there_and_back(kind, options, path):
    theirs = getattr(torch.nn, kind)(4, 5, **options).eval()
    x = torch.randn(3, 6, 4, dtype=options.get("dtype"))
    expected = theirs(x)[0].detach().numpy()
    live = from_torch(theirs).eval()
    save(theirs.state_dict(), path)
    told = {n: options[n] for n in ("nonlinearity", "batch_first") if n in options}
    read = from_torch(path, {"": {"kind": kind, **told}}).eval()
    for ours in (live, read):
        assert np.abs(ours(x.numpy())[0].numpy() - expected).max() < 1e-5
    assert live.dropout == options.get("dropout", 0)
    back = getattr(torch.nn, kind)(4, 5, **options).eval()
    back.load_state_dict({name: torch.from_numpy(a) for name, a in to_torch(live).items()})
    assert np.array_equal(back(x)[0].detach().numpy(), expected)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_cells(kind):
    theirs = getattr(torch.nn, f"{kind}Cell")(4, 5)
    x = torch.randn(6, 3, 4)
    state, outputs = None, []
    for step in x:
        state = theirs(step, state)
        outputs.append((state[0] if kind == "LSTM" else state).detach().numpy())
    for source in (theirs, theirs.state_dict()):
        assert np.abs(from_torch(source)(x.numpy())[0].numpy() - np.stack(outputs)).max() < 1e-5


class Own(torch.nn.Module):
    """A chain in a class of one's own."""

    def __init__(self, *extra):
        super().__init__()
        self.rnn = torch.nn.LSTM(4, 5)
        self.head = torch.nn.Linear(5, 2)
        self.extra = torch.nn.Sequential(*extra)


def test_a_class_of_ones_own():
    model = from_torch(Own())
    assert [type(m) for m in model] == [nn.LSTM, nn.Linear]
    assert type(from_torch(Own(), prefix="rnn.")) is nn.LSTM
    with pytest.raises(ValueError, match=r"extra\.0 is ReLU, inside a module of your own class"):
        from_torch(Own(torch.nn.ReLU()))
    with pytest.raises(ValueError, match=r"extra\.0 is torch\.nn\.Conv1d, which rnncore does not"):
        from_torch(Own(torch.nn.Conv1d(2, 2, 1)))
    assert [type(m) for m in from_torch(torch.nn.DataParallel(Own()))] == [nn.LSTM, nn.Linear]
    assert (
        type(
            from_torch(
                torch.compile(torch.nn.Sequential(torch.nn.Tanh(), Own().rnn), backend="eager")
            )[0]
        )
        is nn.Tanh
    )
    with pytest.raises(ValueError, match=r"prefix is 'gru\.', but there is no such module"):
        from_torch(Own(), prefix="gru.")
    wrapped = torch.nn.DataParallel(Own()).state_dict()
    assert [type(m) for m in from_torch(wrapped)] == [nn.LSTM, nn.Linear]
    own = Own()
    own.scale = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="with parameters of its own"):
        from_torch(own)


def test_a_module_that_stands_in_several_places_is_run_in_each():
    act, square = torch.nn.Tanh(), torch.nn.Linear(4, 4)
    theirs = torch.nn.Sequential(square, act, square, torch.nn.Sequential(act, act))
    x = torch.randn(3, 2, 4)
    ours = from_torch(theirs)
    assert len(ours) == 5
    assert np.abs(ours(x.numpy()).numpy() - theirs(x).detach().numpy()).max() < 1e-6


def test_a_class_without_layers_is_refused():
    class Scaled(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    chain = torch.nn.Sequential(torch.nn.Linear(4, 4), Scaled())
    with pytest.raises(ValueError, match="1 is Scaled, a class of your own with no layers inside"):
        from_torch(chain)
    assert type(from_torch(chain, {"0": "Linear"})) is nn.Linear


def test_live_tensors_in_a_state_dict():
    theirs = torch.nn.GRU(3, 4).bfloat16()
    ours = from_torch(dict(theirs.named_parameters()))
    assert np.array_equal(ours.weight_ih_l0.data, theirs.weight_ih_l0.detach().float().numpy())


def test_a_module_that_is_run_by_the_engine():
    import rnncore.torch

    assert type(from_torch(rnncore.torch.LSTM(3, 4))) is nn.LSTM
