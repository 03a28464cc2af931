"""What others see of a run: no absolute path, no machine, no user, in any byte that arrives."""

from __future__ import annotations

import getpass
import io
import json
import shutil
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import snapshot_download
from peft import LoraConfig, PromptTuningConfig

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageAdapterModel,
    MetaAdapterTrainer,
    get_language_model,
)
from hf_meta_adapters.errors import HubError
from tests.adapted import outputs, same
from tests.hub_client import TOKEN, connect, disconnect
from tests.hub_server import HubServer, Repository
from tests.tiny import tiny
from tests.training import LANGUAGES, make_tokenizer, make_trainer, snapshot, texts

HOST, USER = "secret-machine", "secret-user"
STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")
LORA = LoraConfig(r=2, target_modules=["query"])
METHODS = {
    "bottleneck": (BottleneckConfig(bottleneck_size=3), {}),
    "lora": (LORA, {}),
    "shared LoRA": (LORA, {"shared": LoraConfig(r=2, target_modules=["value"])}),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine and a user that cannot occur by accident."""
    home = tmp_path / USER
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    return home


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    folder: Path = tmp_path_factory.mktemp("client")
    with HubServer() as server:
        connect(server, folder, monkeypatch)
        yield server
    monkeypatch.undo()
    disconnect()


def local_base(folder: Path):
    """A base and its tokenizer, loaded from a folder."""
    make_tokenizer().save_pretrained(folder)
    model = tiny("xlm-r").make()
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return type(model).from_pretrained(folder), tokenizer


def make_run(folder: Path, method: str, base, tokenizer, **given) -> MetaAdapterTrainer:
    config, options = METHODS[method]
    given = {
        "push_to_hub": True,
        "hub_token": TOKEN,
        "hub_always_push": True,
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        **given,
    }
    return make_trainer(
        folder,
        get_language_model(base, config, LANGUAGES, **options),
        kind=given.pop("kind", MetaAdapterTrainer),
        train_dataset=texts(0),
        meta_dataset=texts(1),
        eval_dataset=texts(2),
        processing_class=tokenizer,
        **given,
    )


def seen(repository: Repository) -> Iterator[tuple[str, bytes]]:
    """Whatever a repository has ever held, with pickles unpacked."""
    for message in repository.messages:
        yield "a message", message.encode()

    for tree in repository.commits.values():
        for name, content in tree.items():
            yield name, name.encode()
            yield name, content
            if zipfile.is_zipfile(io.BytesIO(content)):
                archive = zipfile.ZipFile(io.BytesIO(content))
                for part in archive.namelist():
                    yield f"{name}: {part}", archive.read(part)


def told(repository: Repository, home: Path) -> list[str]:
    """Which files tell of the machine, and what."""
    secrets = (HOST, USER, str(home.parent), str(Path.cwd()), "the_base")
    return sorted(
        {
            f"{name} {one}"
            for name, data in seen(repository)
            for one in secrets
            if one.encode() in data
        }
    )


@pytest.mark.parametrize(
    ("method", "strategy"),
    [
        *(("bottleneck", strategy) for strategy in STRATEGIES),
        ("lora", "all_checkpoints"),
        ("shared LoRA", "all_checkpoints"),
    ],
)
def test_a_run_tells_nothing(method: str, strategy: str, hub: HubServer, home: Path) -> None:
    pytest.importorskip("tensorboard")
    base, tokenizer = local_base(home / "the_base")
    if method == "shared LoRA":
        base.config._name_or_path = "anna/base"  # as if it had been loaded from there
    run = home / "family"
    trainer = make_run(run, method, base, tokenizer, hub_strategy=strategy, report_to="tensorboard")
    (run / "training_args.bin").write_bytes(str(run).encode())  # of a run of transformers itself
    trainer.train()
    trainer.save_state()
    trainer.scores.append(
        {
            "task": "masked_lm",
            "metric": "loss",
            "dataset": str(home / "data" / "verses.txt"),
            "scores": {key: {"loss": 1.0} for key in LANGUAGES},
        }
    )
    trainer.push_to_hub(license="mit")

    assert any(run.rglob("*tfevents*"))  # it has something to tell
    assert str(run) in (run / "trainer_state.json").read_text()
    repository = hub.repositories["anna/family"]
    assert told(repository, home) == []

    files = repository.files()
    assert {"training_args.json", "trainer_state.json", "te/adapter_model.safetensors"} <= set(
        files
    )
    assert not any(name.endswith(".bin") for name in files)
    assert "loss on verses.txt" in files["README.md"].decode()
    arguments = json.loads(files["training_args.json"])
    assert arguments["learning_rate"] == 1e-2
    assert arguments["output_dir"] == "."


@pytest.mark.parametrize("method", ["bottleneck", "lora"])
def test_a_base_that_is_gone_is_not_named(method: str, hub: HubServer, home: Path) -> None:
    base, tokenizer = local_base(home / "the_base")
    trainer = make_run(home / "family", method, base, tokenizer)
    shutil.rmtree(home / "the_base")
    trainer.train()
    trainer.push_to_hub()

    repository = hub.repositories["anna/family"]
    assert told(repository, home) == []
    assert b"base_model:" not in repository.files()["README.md"]


def test_a_frozen_base_that_only_this_machine_has_is_refused_before_training(
    hub: HubServer, home: Path
) -> None:
    base, tokenizer = local_base(home / "the_base")
    with pytest.raises(HubError, match=r"must name a repository on the Hub. Found the folder"):
        make_run(home / "family", "shared LoRA", base, tokenizer)
    assert hub.repositories == {}

    base, tokenizer = local_base(home / "the_base")
    trainer = make_run(home / "family", "shared LoRA", base, tokenizer, push_to_hub=False)
    trainer.train()  # what stays on this machine may name it
    for is_gone in (False, True):
        if is_gone:
            shutil.rmtree(home / "the_base")
        with pytest.raises(HubError, match=r"Publish the base, load it by its name there"):
            trainer.push_to_hub()
        with pytest.raises(HubError, match=r"Publish the base, load it by its name there"):
            trainer.model.push_to_hub("anna/family")
    assert hub.repositories == {}


def test_a_frozen_base_that_is_gone_is_part_of_the_family(hub: HubServer, home: Path) -> None:
    """Nobody could load it again, not even from here."""
    base, tokenizer = local_base(home / "the_base")
    shutil.rmtree(home / "the_base")
    trainer = make_run(home / "family", "shared LoRA", base, tokenizer)
    trainer.train()
    trainer.push_to_hub()

    assert told(hub.repositories["anna/family"], home) == []
    loaded = LanguageAdapterModel.from_pretrained("anna/family", token=TOKEN)
    batch = tiny("xlm-r").batch()
    expected = outputs(trainer.model.eval(), batch, language="te")
    assert same(outputs(loaded, batch, language="te"), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_tells_nothing(method: str, hub: HubServer, home: Path) -> None:
    base, tokenizer = local_base(home / "the_base")
    config, options = METHODS[method]
    if options:
        base.config._name_or_path = "anna/base"
    model = get_language_model(base, config, LANGUAGES, **options)
    text = str(home / "data" / "verses.txt")
    model.push_to_hub(
        "anna/family",
        processing_class=tokenizer,
        scores={
            "task": "masked_lm",
            "metric": "loss",
            "dataset": text,
            "scores": {"te": {"loss": 1.0}},
        },
        baselines={str(home / "joint"): []},
        training={"texts": f"from {text}, cleaned", "folder": str(home), "rate": 0.1},
        base_model=str(home / "the_base"),
    )

    repository = hub.repositories["anna/family"]
    assert told(repository, home) == []
    details = json.loads(repository.files()["language_adapters.json"])["details"]
    assert details["training"] == {"texts": "from verses.txt, cleaned", "folder": "~", "rate": 0.1}


def test_a_prompt_with_a_tokenizer_of_this_machine_is_refused(hub: HubServer, home: Path) -> None:
    """Where the prompt began as a text, it cannot be loaded without."""
    _, tokenizer = local_base(home / "the_base")
    config = PromptTuningConfig(
        task_type="SEQ_CLS",
        num_virtual_tokens=2,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text="w5 w6",
        tokenizer_name_or_path=str(home / "the_base"),
    )
    model = get_language_model(tiny("xlm-r", "sequence_classification").make(), config, ["te"])
    with pytest.raises(HubError, match=r"`tokenizer_name_or_path` of an adapter must name a repos"):
        model.push_to_hub("anna/family", processing_class=tokenizer)
    assert len(hub.repositories["anna/family"].commits) == 1  # that of the Hub itself


def test_a_push_may_be_waited_for_later(hub: HubServer, home: Path) -> None:
    base, tokenizer = local_base(home / "the_base")
    trainer = make_run(home / "family", "lora", base, tokenizer, push_to_hub=False)
    trainer.model.base_model.model_tags = ["of-the-base"]
    found = trainer.push_to_hub(
        "mine", blocking=False, token=TOKEN, private=True, revision=None, tags=["one"]
    )
    repository = hub.repositories["anna/family"]
    assert found.result().oid == repository.refs["main"]
    assert repository.private
    assert repository.messages[-1] == "mine"
    card = repository.files()["README.md"]
    assert b"- one" in card
    assert b"- of-the-base" in card


def test_a_downloaded_checkpoint_is_resumed(hub: HubServer, home: Path, tmp_path: Path) -> None:
    base, tokenizer = local_base(home / "the_base")
    given = {"hub_strategy": "all_checkpoints", "max_steps": 2}
    first = make_run(home / "family", "bottleneck", base, tokenizer, **given)
    first.train()
    first._finish_current_push()
    told_by_state = hub.repositories["anna/family"].files()["checkpoint-1/trainer_state.json"]
    assert json.loads(told_by_state)["best_model_checkpoint"] == "checkpoint-1"

    elsewhere = tmp_path / "elsewhere"
    snapshot_download("anna/family", local_dir=elsewhere, allow_patterns="checkpoint-1/*")
    shutil.rmtree(home / "family")
    again, _ = local_base(tmp_path / "again")
    second = make_run(elsewhere, "bottleneck", again, tokenizer, push_to_hub=False, max_steps=2)
    second.train(resume_from_checkpoint=True)

    assert second.state.global_step == 2
    assert second.state.best_model_checkpoint == first.state.best_model_checkpoint.replace(
        str(home / "family"), str(elsewhere)
    )
    for name, tensor in snapshot(first.model).items():
        assert torch.equal(snapshot(second.model)[name], tensor), name


def test_the_best_checkpoint_of_a_downloaded_run_is_loaded(
    hub: HubServer, home: Path, tmp_path: Path
) -> None:
    """If it was downloaded as well, also where no later step is better."""
    base, tokenizer = local_base(home / "the_base")
    rising = {"metric_for_best_model": "eval_steps_taken", "greater_is_better": False}

    class Rising(MetaAdapterTrainer):
        def evaluate(self, *args, **kwargs):
            return {**super().evaluate(*args, **kwargs), "eval_steps_taken": self.state.global_step}

    given = {**rising, "kind": Rising, "hub_strategy": "all_checkpoints"}
    first = make_run(home / "family", "lora", base, tokenizer, **given)
    first.train()
    first._finish_current_push()

    elsewhere = tmp_path / "elsewhere"
    snapshot_download("anna/family", local_dir=elsewhere, allow_patterns="checkpoint-*/*")
    shutil.rmtree(home / "family")
    again, _ = local_base(tmp_path / "again")
    given |= {"push_to_hub": False, "max_steps": 3}
    second = make_run(elsewhere, "lora", again, tokenizer, **given)
    second.train(resume_from_checkpoint=True)

    assert second.state.best_model_checkpoint == str(elsewhere / "checkpoint-1")
    best = LanguageAdapterModel.from_pretrained(elsewhere / "checkpoint-1")
    for name, tensor in snapshot(best).items():
        assert torch.equal(snapshot(second.model)[name], tensor), name
