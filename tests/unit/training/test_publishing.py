"""`push_to_hub=True` and `trainer.push_to_hub()`: what is on the Hub while a run goes on, and after
it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from hf_meta_adapters import LanguageAdapterModel, MetaAdapterTrainer, list_languages
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub.manifest import MANIFEST
from tests.adapted import outputs, same
from tests.hub_client import TOKEN, connect, disconnect
from tests.hub_server import HubServer
from tests.tiny import tiny
from tests.training import LANGUAGES, make_model, make_tokenizer, make_trainer, texts


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


def trained(folder: Path, **given) -> MetaAdapterTrainer:
    model = make_model(config="bottleneck")
    given = {
        "max_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "push_to_hub": True,
        "hub_token": TOKEN,
        **given,
    }
    trainer = make_trainer(
        folder / "family",
        model,
        kind=MetaAdapterTrainer,
        train_dataset=texts(0),
        meta_dataset=texts(1),
        eval_dataset=texts(2),
        processing_class=make_tokenizer(),
        **given,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_every_strategy_publishes_a_whole_family(
    strategy: str, hub: HubServer, tmp_path: Path
) -> None:
    trainer = trained(tmp_path, hub_strategy=strategy, hub_always_push=True)
    trainer._finish_current_push()
    before = set(hub.repositories["anna/family"].files())
    assert ("te/adapter_model.safetensors" in before) == (strategy != "end")
    assert ("last-checkpoint/optimizer.pt" in before) == (strategy == "checkpoint")
    assert ("checkpoint-1/te/adapter_model.safetensors" in before) == (
        strategy == "all_checkpoints"
    )
    trainer.evaluate()
    trainer.push_to_hub(license="mit")
    files = hub.repositories["anna/family"].files()
    root = {name for name in files if not name.startswith(("checkpoint-", "last-checkpoint"))}
    assert root >= {MANIFEST, "config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in root)
    assert list_languages("anna/family") == LANGUAGES
    loaded = LanguageAdapterModel.from_pretrained("anna/family", token=TOKEN)
    batch = tiny("xlm-r").batch()
    for key in LANGUAGES:
        assert same(
            outputs(loaded, batch, language=key), outputs(trainer.model.eval(), batch, language=key)
        )


def test_the_card_tells_of_the_run_and_nothing_else(hub: HubServer, tmp_path: Path) -> None:
    trainer = trained(tmp_path, hub_strategy="end", hub_model_id="anna/mine", sampling_alpha=0.5)
    trainer.push_to_hub()
    card = ModelCard(hub.repositories["anna/mine"].files()["README.md"].decode())
    assert "| Telugu (te) | 8 | 8 |" in card.text
    assert "| `sampling_alpha` | 0.5 |" in card.text
    assert "## Scores" not in card.text
    assert card.data.eval_results is None
    trainer.evaluate()
    repository = hub.repositories["anna/mine"]
    text = repository.files()["README.md"].decode() + "\nMy own words.\n"
    repository.commit("main", {**repository.files(), "README.md": text.encode()}, "by hand")
    trainer.push_to_hub(tags=["bible"], license="cc0-1.0")
    card = ModelCard(repository.files()["README.md"].decode())
    assert "My own words." in card.text
    assert card.data.license == "cc0-1.0"
    assert "bible" in card.data.tags
    found = {result.dataset_config: result.metric_value for result in card.data.eval_results}
    logged = [entry for entry in trainer.state.log_history if "eval_te_loss" in entry][-1]
    assert found == {key: pytest.approx(logged[f"eval_{key}_loss"]) for key in LANGUAGES}
    assert torch.isfinite(torch.tensor(list(found.values()))).all()


def test_what_else_was_measured_is_published_beside_the_losses(
    hub: HubServer, tmp_path: Path
) -> None:
    trainer = trained(tmp_path, hub_strategy="end")
    values = {key: {"bits_per_character": 2.0 + number} for number, key in enumerate(LANGUAGES)}
    trainer.scores.append(
        {"task": "masked_lm", "metric": "bits_per_character", "dataset": "verses", "scores": values}
    )
    trainer.push_to_hub()
    evaluated = trainer.evaluate()
    for _ in range(2):  # is not there twice after the second time
        trainer.push_to_hub()
    card = ModelCard(hub.repositories["anna/family"].files()["README.md"].decode())
    found = {
        (one.metric_type, one.dataset_config): one.metric_value for one in card.data.eval_results
    }
    expected = {("loss", key): pytest.approx(evaluated[f"eval_{key}_loss"]) for key in LANGUAGES}
    assert found == expected | {
        ("bits_per_character", key): values[key]["bits_per_character"] for key in LANGUAGES
    }
    assert len(card.data.eval_results) == len(found)
    assert "bits_per_character on verses, as measured." in card.text


def test_a_checkpoint_is_not_copied_through_a_link(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"of somebody else")
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "config.json").symlink_to(tmp_path / "outside")
    with pytest.raises(HubError, match=r"Found links in .*family: config.json\."):
        trained(tmp_path, hub_strategy="every_save")
    assert (tmp_path / "outside").read_bytes() == b"of somebody else"
