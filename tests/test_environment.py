"""Modes and settings of the caller: they change no answer and nothing that is kept, and are left as they were."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import pertbound as pb
from contracts.catalogue import catalogue
from contracts.environment import (
    DETERMINISTIC,
    QUICK,
    STATES,
    TIMED,
    all_at_once,
    check_answers,
    check_flushed_noise,
    check_kept_facts,
    denormal_graph,
    flushing,
    settings,
)
from pertbound import environment
from pertbound.environment import denormals_flushed, flushes_denormals, known_state
from pertbound.frontends.vnnlib import parse_vnnlib
from pertbound.layers import (
    ELU,
    Add,
    Conv,
    ConvTranspose,
    Dense,
    Diagonal,
    Layer,
    LeakyReLU,
    LocalResponse,
    Multiply,
    PReLU,
    Standardize,
)

TINY, HUGE = 1e-40, 1e30
CATALOGUE = catalogue()
DECLARED = "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
PROPERTY = f"{DECLARED}(assert (>= Y_0 Y_1))(assert (>= X_0 0))"


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pertbound.balance.STEPS", 5)  # of no use here, and most of the time otherwise


def test_certificates_give_the_same_answer_in_all_states_at_once() -> None:
    check_answers({"flushing": flushing, "all at once": all_at_once}, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STATES if name != "plain"])
def test_every_certificate_gives_the_same_answer_in_every_state(name: str) -> None:
    check_answers({name: STATES[name]}, (*DETERMINISTIC, *TIMED))


STATES_OF_VERDICTS = [name if name == "flushing" else pytest.param(name, marks=pytest.mark.slow) for name in STATES]


@pytest.mark.parametrize("name", STATES_OF_VERDICTS)
def test_a_verdict_does_not_depend_on_the_state(name: str) -> None:
    before = settings()
    for end, answer in ((0.45, pb.Answer.HOLDS), (0.55, pb.Answer.VIOLATED)):
        claim, graph = parse_vnnlib(f"{PROPERTY}(assert (<= X_0 {end}))"), denormal_graph()
        with STATES[name]():
            assert pb.verify(graph, claim, seconds=20).answer is answer
    assert settings() == before


@pytest.mark.slow
def test_a_model_is_read_in_several_states_at_once() -> None:
    """Also certified and attacked, under autocast, which raised a raw error once."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    x, found = torch.randn(2, 3), []
    hostile = ("flushing", "autocast", "float64 by default", "no gradients")
    with contexts(hostile):
        network = pb.from_torch(model, x)
    for names in ((), hostile):
        with contexts(names):
            found.append(pb.bracket(network, x, certificates=[pb.Interval()], attacks=[pb.DDN(steps=5)]))
    assert torch.equal(found[0].lower, found[1].lower)
    assert torch.equal(found[0].upper, found[1].upper)
    with torch.no_grad():
        assert torch.equal(network(x), model(x))


def contexts(names: tuple[str, ...]) -> ExitStack:
    stack = ExitStack()
    for name in names:
        stack.enter_context(STATES[name]())
    return stack


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_a_layer_keeps_does_not_depend_on_who_asks_first(name: str) -> None:
    layer = CATALOGUE[name].layer
    own = {f.name: v for f in fields(layer) if isinstance(v := getattr(layer, f.name), torch.Tensor)}  # type: ignore[arg-type]
    floats = {key: value for key, value in own.items() if value.is_floating_point()}
    small = replace(layer, **{key: value * 1e-39 for key, value in floats.items()}) if floats else layer
    check_kept_facts(small, lambda: contexts(("flushing", "autocast", "inference mode", "float64 by default")))


def test_what_a_graph_keeps_does_not_depend_on_the_state() -> None:
    def small(graph: pb.Graph) -> torch.Tensor:
        return graph.node("small").layer.weight.to(torch.float64)  # type: ignore[attr-defined]

    graph = denormal_graph()
    with flushing(), torch.inference_mode():
        kept = graph.derive(small)
    assert float(kept) == pytest.approx(1e-40, rel=1e-4)
    assert not kept.is_inference()


def small_layers() -> dict[str, tuple[Layer, tuple[torch.Tensor, ...]]]:
    """Layers with denormal parameters on huge inputs, and layers of huge slopes on denormal inputs."""
    far, near = torch.full((1, 3), HUGE), torch.full((1, 3), TINY)
    image = torch.full((1, 2, 4, 4), HUGE)
    small, kernel = torch.full((2, 3), TINY), torch.full((2, 2, 3, 3), TINY)
    ones = (1, 1)
    return {
        "dense": (Dense((3,), small, None), (far,)),
        "dense, inputs": (Dense((3,), torch.full((2, 3), HUGE), None), (near,)),
        "convolution": (Conv((2, 4, 4), kernel, None, ones, (0, 0), ones, 1), (image,)),
        "transposed": (ConvTranspose((2, 4, 4), kernel, None, ones, (0, 0), (0, 0), ones, 1), (image,)),
        "diagonal": (Diagonal((3,), torch.full((3,), TINY), torch.zeros(3)), (far,)),
        "shift": (Diagonal((3,), torch.ones(3), torch.full((3,), TINY)), (near,)),
        "leaky": (LeakyReLU((3,), TINY), (-far,)),
        "prelu": (PReLU((3,), torch.full((1,), TINY)), (-far,)),
        "elu": (ELU((3,), 1.0, HUGE, 1.0), (near,)),
        "product": (Multiply((3,)), (near, far)),
        "product, other": (Multiply((3,)), (far, near)),
        "sum": (Add(), (near, near, near)),
        "standardize": (Standardize((3,), 1e-30), (torch.tensor([[TINY, 0.0, -TINY]]),)),
        "response": (LocalResponse((3, 1), 1, 1.0, 1.0, 1e-30), (near.unsqueeze(-1),)),
    }


@pytest.mark.parametrize("name", small_layers())
def test_the_noise_covers_what_flushing_loses(name: str) -> None:
    layer, inputs = small_layers()[name]
    check_flushed_noise(layer, *inputs)


def test_states_are_put_back_after_an_error() -> None:
    @known_state()
    @denormals_flushed()
    def fail() -> None:
        assert flushes_denormals()
        raise ZeroDivisionError

    before = settings()
    with all_at_once():
        inside = settings()
        with pytest.raises(ZeroDivisionError):
            fail()
        assert settings() == inside
    assert settings() == before


def test_a_search_flushes_and_a_fact_asked_for_on_the_way_does_not() -> None:
    layer = Dense((1,), torch.tensor([[1e-40]]), None)
    with known_state(), denormals_flushed():
        assert flushes_denormals()
        assert layer.norm_upper == pytest.approx(1e-40, rel=1e-3)
        assert flushes_denormals()


def test_threads_share_the_default_dtype() -> None:
    """The last of two overlapping states puts it back, not the first."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with known_state():
            inside.set()
            leave.wait(10)

    torch.set_default_dtype(torch.float64)
    try:
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
        with known_state():
            leave.set()
            thread.join()
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_thread_computes_where_workers_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    for flush in (False, True):
        monkeypatch.setattr(environment, "_workers_flush", lambda threads, flush=flush: flush and threads == 4)
        with known_state(), known_state():
            pass
    assert used == [1, 4]
