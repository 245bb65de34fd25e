"""Text encoders off a device that is played here: what is sent away has no weights until it is called back."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.hashing import hash_tensors
from unconcept.edits import DenseEdit
from unconcept.methods.advunlearn import AdvUnlearn
from unconcept.methods.esd import ESD
from unconcept.models.checkpoint.fingerprint import TEXT_ENCODER_PARTS
from unconcept.models.text import offload as module
from unconcept.models.text.offload import offload_idle_encoders
from unconcept.training import TrainingSession, training_session
from unconcept.training.trainables import with_pristine_weights

AWAY = torch.device("cpu", 0)  # is not equal to the CPU where everything computes
REQUEST = Request(("dog", "hound"), ("cat", "cat"))
ESDS = ESD(iterations=6, ddim_steps=2, pool=2, lr=1e-3)


class Played:
    """The encoders of a view, which say where they are and what moved them."""

    def __init__(self, view) -> None:
        self.view, self.moves = view, []
        self.gone: dict[torch.nn.Parameter, torch.Tensor] = {}
        self.encoders = {part: view.modules(part) for part in TEXT_ENCODER_PARTS if view.checkpoint.has(part)}
        for part, encoder in self.encoders.items():
            encoder.to = lambda place, part=part: self.move(part, place)

    def move(self, part: str, place: torch.device) -> None:
        """As `Module.to`: of the parameters that are now in the module, those that are elsewhere."""
        found = [p for p in self.encoders[part].parameters() if (p in self.gone) != (place == AWAY)]
        for parameter in found:
            if place == AWAY:
                self.gone[parameter], parameter.data = parameter.data, torch.empty(0)
            else:
                parameter.data = self.gone.pop(parameter)
        if found:
            self.moves.append((part, "away" if place == AWAY else "back"))

    @property
    def away(self) -> set[str]:
        """Encoders of which no parameter is there."""
        return {
            part
            for part, encoder in self.encoders.items()
            if all(parameter in self.gone for parameter in encoder.parameters())
        }

    @property
    def states(self) -> dict[str, str]:
        return {part: hash_tensors(dict(encoder.named_parameters())) for part, encoder in self.encoders.items()}


@pytest.fixture
def played(monkeypatch):
    def play(family: str, dtype: torch.dtype = torch.float32) -> Played:
        monkeypatch.setattr(module, "_SHARED_MEMORY_DEVICES", ())
        monkeypatch.setattr(module, "_OFFLOAD_DEVICE", AWAY)
        return Played(tiny.view(family, dtype))

    return play


@pytest.mark.parametrize(
    "family", ["sd1", "sdxl", "sd3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd2", "flux"))]
)  # One, two and three encoders.
def test_a_training_asks_the_denoiser_alone_once_its_texts_are_read(family, played) -> None:
    """The edit is the same to the bit; in every step but those that read a text all encoders are away, and then they
    are back.
    """
    plain = ESDS.erase(tiny.view(family, torch.float32), REQUEST)
    one, seen = played(family), []
    before = one.states
    with training_session(TrainingSession(lambda progress: seen.append(one.away))):
        assert ESDS.erase(one.view, REQUEST).hash == plain.hash
    assert seen == [set(one.encoders)] * 6
    assert (one.gone, one.states) == ({}, before)
    assert all(not encoder._forward_hooks and not encoder._forward_pre_hooks for encoder in one.encoders.values())


def test_an_exception_brings_them_back(played) -> None:
    one = played("sdxl")
    before = one.states

    def stop(progress) -> None:
        assert len(one.away) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), training_session(TrainingSession(stop)):
        ESDS.erase(one.view, REQUEST)
    assert (one.gone, one.states) == ({}, before)


def test_a_teacher_with_another_encoder_finds_it_where_it_computes(played) -> None:
    """On an edited encoder the pristine teacher exchanges parameters; those it takes out stay where they are, and come
    back with the next text.
    """
    one, name = played("sd1"), "text_encoder.encoder.layers.0.mlp.fc1.weight"
    before, x, t = one.states, torch.zeros(1, *one.view.latent_shape), torch.tensor([1])
    edit = DenseEdit({name: torch.ones_like(one.view.reference([name])[name])})
    with edit.applied(one.view), offload_idle_encoders(one.view, TEXT_ENCODER_PARTS), torch.no_grad():
        given = one.view.condition(["dog"])
        one.view.denoise(x, t, given)
        assert one.away == {"text_encoder"}
        with with_pristine_weights(one.view):
            plain = one.view.condition(["dog"])
        again = one.view.condition(["dog"])
    assert torch.equal(again.states, given.states)
    assert not torch.equal(plain.states, given.states)
    assert one.states == before


def test_an_encoder_that_is_trained_stays(played) -> None:
    one = played("sd1")
    AdvUnlearn(
        iterations=2,
        warmup_iter=1,
        attack_step=1,
        retain_batch=1,
        ddim_steps=2,
        pool=1,
        dataset_retain="",
        templates=("a {}",),
    ).erase(one.view, Request(("dog",), ("",), ("cat",)))
    assert one.moves == []


def test_who_is_read_often_waits_twice_as_long_each_time(played) -> None:
    one = played("sd1")
    x, t = torch.zeros(1, *one.view.latent_shape), torch.tensor([1])
    with offload_idle_encoders(one.view, TEXT_ENCODER_PARTS), torch.no_grad():
        for _ in range(16):
            given = one.view.condition(["dog"])
            for _ in range(3):
                one.view.denoise(x, t, given)
    assert one.moves == [("text_encoder", way) for _ in range(3) for way in ("away", "back")]


def test_an_encoder_on_the_way_back_of_a_gradient_stays(played) -> None:
    one = played("sd1")
    given = tiny.view("sd1", torch.float32)
    x, t, found = torch.ones(1, *one.view.latent_shape), torch.tensor([1]), []
    for view in (given, one.view):
        with offload_idle_encoders(view, TEXT_ENCODER_PARTS if view is one.view else ()):
            loss = view.denoise(x, t, ["dog"]).sum()
            found.append(torch.autograd.grad(loss, next(view.modules("text_encoder").parameters()))[0])
    assert one.moves == []
    assert torch.equal(*found)


def test_on_a_processor_they_are_left_in_place() -> None:
    one = Played(tiny.view("sd1", torch.float32))
    ESDS.erase(one.view, REQUEST)
    assert one.moves == []
