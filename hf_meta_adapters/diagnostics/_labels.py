"""Labels of languages for pictures: the native name where a font can draw it, else the key."""

from __future__ import annotations

from functools import cache

from hf_meta_adapters._typing import Language

__all__ = ["font_for", "language_label", "native_name"]

_TABLE = """
am:አማርኛ ar:العربية az:Azərbaycan bg:Български bn:বাংলা cs:Čeština da:Dansk de:Deutsch el:Ελληνικά en:English es:Español
et:Eesti eu:Euskara fa:فارسی fi:Suomi fr:Français gu:ગુજરાતી ha:Hausa he:עברית hi:हिन्दी hr:Hrvatski hu:Magyar
hy:Հայերեն id:Indonesia ig:Igbo it:Italiano ja:日本語 jv:Jawa ka:ქართული kk:Қазақ km:ខ្មែរ kn:ಕನ್ನಡ ko:한국어 lo:ລາວ
lt:Lietuvių lv:Latviešu ml:മലയാളം mr:मराठी ms:Melayu my:မြန်မာ ne:नेपाली nl:Nederlands no:Norsk pa:ਪੰਜਾਬੀ pl:Polski
pt:Português qu:Runasimi ro:Română ru:Русский rw:Kinyarwanda si:සිංහල sk:Slovenčina sl:Slovenščina so:Soomaali
sq:Shqip sr:Српски sv:Svenska sw:Kiswahili ta:தமிழ் te:తెలుగు th:ไทย tl:Tagalog tr:Türkçe uk:Українська ur:اردو
uz:Oʻzbek vi:Việt xh:isiXhosa yo:Yorùbá zh:中文 zu:isiZulu
"""
_NAMES = dict(item.split(":") for item in _TABLE.split())
_PLACEHOLDERS = "Last Resort"  # a font of boxes, one for every character there is
_FIRST_UNSHAPED = "\u0590"  # from Hebrew on, letters have to be joined, reordered or set from right to left


def native_name(language: Language) -> str | None:
    """Return the name of a language in the language itself, or `None` where it is not known.

    Args:
        language: A key; what follows the first `-` or `_` is left aside.

    Returns:
        The name.

    Example:
        >>> native_name("fr"), native_name("pt-BR"), native_name("klingon")
        ('Français', 'Português', None)
    """
    return _NAMES.get(language.replace("_", "-").partition("-")[0])


def language_label(language: Language) -> str:
    """Return `"Français (fr)"`, or the key alone where the name is unknown or no installed font can draw it.

    Args:
        language: A key.

    Returns:
        A label that can be drawn without missing glyphs.
    """
    name = native_name(language)
    return language if name is None or font_for(name) is None else f"{name} ({language})"


@cache
def font_for(text: str) -> str | None:
    """Return the path of an installed font that can draw every character of `text`, or `None`.

    DejaVu Sans, which comes with matplotlib, is tried first, then Noto, then everything else. Scripts that need
    shaping (Arabic, Devanagari, Telugu, ...) are only drawn by a matplotlib that shapes text (3.11 and later).

    Args:
        text: What is to be drawn.

    Returns:
        The path.
    """
    from matplotlib import font_manager, ft2font

    if max(text) >= _FIRST_UNSHAPED and not hasattr(ft2font, "__libraqm_version__"):
        return None
    fonts = [f for f in font_manager.fontManager.ttflist if f.style == "normal" and f.weight in (400, "normal")]
    fonts.sort(key=lambda font: (font.name != "DejaVu Sans", not font.name.startswith("Noto Sans"), font.name))
    letters = {ord(character) for character in text if not character.isspace()}
    for font in fonts:
        if _PLACEHOLDERS not in font.name and letters <= _coverage(font.fname):
            return font.fname
    return None


@cache
def _coverage(path: str) -> frozenset[int]:
    from matplotlib import ft2font

    return frozenset(ft2font.FT2Font(path).get_charmap())
