"""Labels of languages for pictures: the native name where a font can draw it, or the English."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Language

if TYPE_CHECKING:
    from matplotlib.font_manager import FontEntry

__all__ = ["families_for", "language_label"]

_TABLE = """
am:አማርኛ:Amharic ar:العربية:Arabic az:Azərbaycan:Azerbaijani bg:Български:Bulgarian
bn:বাংলা:Bengali cs:Čeština:Czech da:Dansk:Danish de:Deutsch:German el:Ελληνικά:Greek en:English
es:Español:Spanish et:Eesti:Estonian eu:Euskara:Basque fa:فارسی:Persian fi:Suomi:Finnish
fr:Français:French gu:ગુજરાતી:Gujarati ha:Hausa he:עברית:Hebrew hi:हिन्दी:Hindi
hr:Hrvatski:Croatian hu:Magyar:Hungarian hy:Հայերեն:Armenian id:Indonesia:Indonesian ig:Igbo
it:Italiano:Italian ja:日本語:Japanese jv:Jawa:Javanese ka:ქართული:Georgian kk:Қазақ:Kazakh
km:ខ្មែរ:Khmer kn:ಕನ್ನಡ:Kannada ko:한국어:Korean lo:ລາວ:Lao lt:Lietuvių:Lithuanian
lv:Latviešu:Latvian ml:മലയാളം:Malayalam mr:मराठी:Marathi ms:Melayu:Malay my:မြန်မာ:Burmese
ne:नेपाली:Nepali nl:Nederlands:Dutch no:Norsk:Norwegian pa:ਪੰਜਾਬੀ:Punjabi pl:Polski:Polish
pt:Português:Portuguese qu:Runasimi:Quechua ro:Română:Romanian ru:Русский:Russian rw:Kinyarwanda
si:සිංහල:Sinhala sk:Slovenčina:Slovak sl:Slovenščina:Slovenian so:Soomaali:Somali
sq:Shqip:Albanian sr:Српски:Serbian sv:Svenska:Swedish sw:Kiswahili:Swahili ta:தமிழ்:Tamil
te:తెలుగు:Telugu th:ไทย:Thai tl:Tagalog tr:Türkçe:Turkish uk:Українська:Ukrainian ur:اردو:Urdu
uz:Oʻzbek:Uzbek vi:Việt:Vietnamese xh:isiXhosa:Xhosa yo:Yorùbá:Yoruba zh:中文:Chinese
zu:isiZulu:Zulu
"""
_DEFAULT_FONT = "DejaVu Sans"
_BOXES = "Last Resort"  # a font that draws a box for every character
# From Hebrew on, letters have to be joined, reordered or set from right to left.
_FIRST_UNSHAPED = "\u0590"


def _read_table() -> dict[Language, list[str]]:
    """Return key → native name, and the English name if it differs."""
    names: dict[Language, list[str]] = {}
    for entry in _TABLE.split():
        key, *names_of_key = entry.split(":")
        names[key] = names_of_key

    return names


_NAMES = _read_table()


def language_label(language: Language) -> str:
    """Return `"Français (fr)"`, or the English name where no installed font has the native letters.

    Args:
        language: A key; what follows the first `-` or `_` does not change the name.

    Returns:
        A label that can be drawn without missing glyphs; the key alone where the name is unknown.

    Example:
        >>> language_label("fr"), language_label("pt-BR"), language_label("klingon")
        ('Français (fr)', 'Português (pt-BR)', 'klingon')
    """
    for name in _names(language):
        # With the key, which is what tables and commands use.
        label = f"{name} ({language})"
        if families_for(label) is not None:
            return label

    return language


def _names(language: Language) -> list[str]:
    return _NAMES.get(language.replace("_", "-").partition("-")[0], [])


@cache
def families_for(text: str) -> tuple[str, ...] | None:
    """Return one or two font families that together can draw every character of a text.

    The first is DejaVu Sans, which comes with matplotlib. A second one is taken from Noto if it
    has what DejaVu lacks, or else from any installed family. Scripts that need shaping (Arabic,
    Devanagari, Telugu, …) are drawn only by a matplotlib that shapes text (3.11 and later).

    Args:
        text: The text.

    Returns:
        The families; `None` if there is no such font.
    """
    from matplotlib import font_manager, ft2font

    # matplotlib has no flag for it: its binding to the library that shapes text is the sign.
    if max(text) >= _FIRST_UNSHAPED and not hasattr(ft2font, "__libraqm_version__"):
        return None

    fonts = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal")
    ]
    fonts.sort(key=_preference)

    letters = {ord(character) for character in text if not character.isspace()}
    missing = letters - _coverage(fonts[0].fname)
    if not missing:
        return (_DEFAULT_FONT,)

    # One more family at most: matplotlib looks a character up in the families in turn.
    for font in fonts:
        if _BOXES not in font.name and missing <= _coverage(font.fname):
            return (_DEFAULT_FONT, font.name)
    return None


def _preference(font: FontEntry) -> tuple[bool, bool, str]:
    """Sort the default font first, then Noto, then the rest by name."""
    return font.name != _DEFAULT_FONT, not font.name.startswith("Noto Sans"), font.name


@cache
def _coverage(path: str) -> frozenset[int]:
    """Return the code points that a font file can draw; cached, since reading one takes a while."""
    from matplotlib import ft2font

    return frozenset(ft2font.FT2Font(path).get_charmap())
