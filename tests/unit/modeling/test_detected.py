"""Text that is generated in the language that is detected."""

import pytest
import torch

from hf_meta_adapters.data.detection import LanguageDetection
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from tests.adapted import adapted, stirred
from tests.tiny import tiny

TEXTS = ["Habari", "Hello", "Habari"]


def by_greeting(texts):
    return [{"Habari": "sw", "Hello": "en"}.get(text, "und") for text in texts]


def inputs():
    batch = tiny("llama").batch(rows=3)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("method", ["bottleneck", "ia3"])
def test_each_row_is_generated_in_its_language(method):
    model = stirred(adapted("llama", method))
    options = {**inputs(), "max_new_tokens": 4, "do_sample": False}
    expected = model.generate(language=["sw", "en", "sw"], **options)
    found = model.generate(
        language="auto", texts=TEXTS, detection=LanguageDetection(by_greeting), **options
    )
    assert torch.equal(found, expected)
    assert not torch.equal(found, model.generate(language=["en", "sw", "en"], **options))


def test_what_is_in_no_language_falls_back_as_told():
    model = stirred(adapted("llama", "lora"))
    options = {**inputs(), "max_new_tokens": 4, "do_sample": False, "language": "auto"}
    texts = ["Hello", "Ciao", "Ciao"]
    with pytest.raises(LanguageError, match=r"Found row 1 \('und': 'Ciao'\), row 2"):
        model.generate(texts=texts, detection=LanguageDetection(by_greeting), **options)

    detection = LanguageDetection(by_greeting, fallback="sw")
    expected = model.generate(**{**options, "language": ["en", "sw", "sw"]})
    assert torch.equal(model.generate(texts=texts, detection=detection, **options), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"language": "auto"}, r"Found 'None'.*Pass `texts=\[...\]`"),
        ({"language": "auto", "texts": TEXTS, "detection": by_greeting}, "must be a `LanguageDet"),
        ({"language": "en", "texts": TEXTS}, "`texts` is read where languages are detected"),
        (
            {"language": ["en"] * 3, "detection": LanguageDetection(by_greeting)},
            "`detection` is read where languages are detected",
        ),
        (
            {"language": "auto", "texts": ["Hello"], "detection": LanguageDetection(by_greeting)},
            "rows",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        adapted("llama", "lora").generate(**inputs(), max_new_tokens=1, **given)


def test_a_language_that_is_called_auto_is_meant_itself():
    model = stirred(adapted("llama", "lora", ["auto", "sw"]))
    options = {**inputs(), "max_new_tokens": 4, "do_sample": False}
    expected = model.generate(language=["auto"] * 3, **options)
    assert torch.equal(model.generate(language="auto", **options), expected)
