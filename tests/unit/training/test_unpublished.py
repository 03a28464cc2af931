"""A Hub that cannot be reached, or that holds more than the model: said before training, and never
at the price of it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from transformers import TrainerCallback

from hf_meta_adapters import LanguageAdapterModel, MetaAdapterTrainer
from hf_meta_adapters.errors import ConfigurationError, HubError
from tests.adapted import same
from tests.hub_client import TOKEN, connect, disconnect
from tests.hub_server import HubServer
from tests.training import LANGUAGES, make_model, make_trainer, texts

load = LanguageAdapterModel.from_pretrained
FAMILY = "anna/family"


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    folder: Path = tmp_path_factory.mktemp("client")
    with HubServer() as server:
        connect(server, folder, monkeypatch)
        yield server
    monkeypatch.undo()
    disconnect()


@pytest.fixture
def cut(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Cuts the connection."""

    def cut() -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        disconnect()  # older clients read it when they connect

    return cut


def trainer_of(folder: Path, model: Any = None, **given: Any) -> MetaAdapterTrainer:
    model = model or make_model(config="bottleneck")
    data = {key: rows for key, rows in texts(0).items() if key in model.languages}
    given = {"max_steps": 1, "adapter_update": "train", "save_strategy": "no", **given}
    return make_trainer(folder, model, kind=MetaAdapterTrainer, train_dataset=data, **given)


def test_without_a_connection_training_does_not_begin(cut, tmp_path: Path) -> None:
    cut()
    with pytest.raises(
        HubError, match=r"Publishing needs a connection to the Hub. .*Or pass `push"
    ):
        trainer_of(tmp_path / "family", push_to_hub=True, hub_token=TOKEN)


def test_without_a_valid_token_training_does_not_begin(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"needs a valid token. .*Log in .*Or pass `push_to_hub=F"):
        trainer_of(tmp_path / "family", push_to_hub=True, hub_token="hf_nobodys")


def test_a_push_that_fails_leaves_the_trained_model(cut, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "family")
    trainer.train()
    cut()
    with pytest.raises(HubError, match=r"needs a connection .* The model is saved in .*family; no"):
        trainer.push_to_hub()
    loaded = load(tmp_path / "family")
    ours, theirs = trainer._model.state_dict(), loaded.state_dict()
    assert same([ours[name] for name in sorted(ours)], [theirs[name] for name in sorted(theirs)])


class Cutting(TrainerCallback):
    def __init__(self, cut: Callable[[], None]) -> None:
        self.cut = cut

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.cut()


def test_a_connection_that_is_lost_does_not_end_training(cut, tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path / "family",
        push_to_hub=True,
        hub_token=TOKEN,
        hub_strategy="every_save",
        save_strategy="steps",
        save_steps=1,
        max_steps=2,
    )
    trainer.add_callback(Cutting(cut))
    with pytest.warns(UserWarning, match="is not published, and training goes on: Publishing"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert load(tmp_path / "family" / "checkpoint-2").languages == LANGUAGES


def test_a_repository_with_further_languages_is_not_replaced(
    hub: HubServer, tmp_path: Path
) -> None:
    make_model(config="bottleneck").push_to_hub(FAMILY)
    few = load(FAMILY, languages=[LANGUAGES[0]])
    with pytest.raises(HubError, match=r"'anna/family' with \[.*\], which this model lacks. Train"):
        trainer_of(tmp_path / "family", few, push_to_hub=True, hub_token=TOKEN)


def test_an_output_folder_with_languages_that_were_left_out(tmp_path: Path) -> None:
    make_model(config="bottleneck").save_pretrained(tmp_path)
    few = load(tmp_path, languages=[LANGUAGES[0]])
    with pytest.raises(ConfigurationError, match=r"`output_dir` must not be a family with languag"):
        trainer_of(tmp_path, few)
    trainer_of(tmp_path / "new", few)

    # with θ as it was they stay, so that nothing speaks against it
    few.train_only(LANGUAGES[0])
    trainer = trainer_of(tmp_path, few)
    trainer.train()
    trainer.save_model()
    assert load(tmp_path).languages == LANGUAGES
