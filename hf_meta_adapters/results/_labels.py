"""Labels of languages for pictures: the native name where a font can draw it, else the English one."""

from __future__ import annotations

from functools import cache

from hf_meta_adapters._typing import Language

__all__ = ["families_for", "language_label"]

_TABLE = """
am:አማርኛ:Amharic ar:العربية:Arabic az:Azərbaycan:Azerbaijani bg:Български:Bulgarian bn:বাংলা:Bengali cs:Čeština:Czech
da:Dansk:Danish de:Deutsch:German el:Ελληνικά:Greek en:English es:Español:Spanish et:Eesti:Estonian
eu:Euskara:Basque fa:فارسی:Persian fi:Suomi:Finnish fr:Français:French gu:ગુજરાતી:Gujarati ha:Hausa he:עברית:Hebrew
hi:हिन्दी:Hindi hr:Hrvatski:Croatian hu:Magyar:Hungarian hy:Հայերեն:Armenian id:Indonesia:Indonesian ig:Igbo
it:Italiano:Italian ja:日本語:Japanese jv:Jawa:Javanese ka:ქართული:Georgian kk:Қазақ:Kazakh km:ខ្មែរ:Khmer
kn:ಕನ್ನಡ:Kannada ko:한국어:Korean lo:ລາວ:Lao lt:Lietuvių:Lithuanian lv:Latviešu:Latvian ml:മലയാളം:Malayalam
mr:मराठी:Marathi ms:Melayu:Malay my:မြန်မာ:Burmese ne:नेपाली:Nepali nl:Nederlands:Dutch no:Norsk:Norwegian
pa:ਪੰਜਾਬੀ:Punjabi pl:Polski:Polish pt:Português:Portuguese qu:Runasimi:Quechua ro:Română:Romanian ru:Русский:Russian
rw:Kinyarwanda si:සිංහල:Sinhala sk:Slovenčina:Slovak sl:Slovenščina:Slovenian so:Soomaali:Somali sq:Shqip:Albanian
sr:Српски:Serbian sv:Svenska:Swedish sw:Kiswahili:Swahili ta:தமிழ்:Tamil te:తెలుగు:Telugu th:ไทย:Thai tl:Tagalog
tr:Türkçe:Turkish uk:Українська:Ukrainian ur:اردو:Urdu uz:Oʻzbek:Uzbek vi:Việt:Vietnamese xh:isiXhosa:Xhosa
yo:Yorùbá:Yoruba zh:中文:Chinese zu:isiZulu:Zulu
"""
_NAMES = {
    key: names for key, *names in (item.split(":") for item in _TABLE.split())
}  # native, English if another
_DEFAULT = "DejaVu Sans"
_PLACEHOLDERS = "Last Resort"  # a font of boxes, one for every character there is
# from Hebrew on, letters have to be joined, reordered or set from right to left
_FIRST_UNSHAPED = "\u0590"


def language_label(language: Language) -> str:
    """Return `"Français (fr)"`: the native name, or the English one where no installed font can draw it.

    Args:
        language: A key; what follows the first `-` or `_` is left aside.

    Returns:
        A label that can be drawn without missing glyphs; the key alone where the name is unknown.

    Example:
        >>> language_label("fr"), language_label("pt-BR"), language_label("klingon")
        ('Français (fr)', 'Português (pt-BR)', 'klingon')
    """
    labels = [f"{name} ({language})" for name in _names(language)]
    return next((label for label in labels if families_for(label) is not None), language)


def _names(language: Language) -> list[str]:
    return _NAMES.get(language.replace("_", "-").partition("-")[0], [])


@cache
def families_for(text: str) -> tuple[str, ...] | None:
    """Return one or two font families that together can draw every character of `text`, or `None`.

    DejaVu Sans, which comes with matplotlib, is the first; what it lacks is looked for in Noto,
    then everywhere else. Scripts that need shaping (Arabic, Devanagari, Telugu, ...) are only drawn
    by a matplotlib that shapes text (3.11 and later).

    Args:
        text: What is to be drawn.

    Returns:
        The families.
    """
    from matplotlib import font_manager, ft2font

    if max(text) >= _FIRST_UNSHAPED and not hasattr(ft2font, "__libraqm_version__"):
        return None
    fonts = [
        f
        for f in font_manager.fontManager.ttflist
        if f.style == "normal" and f.weight in (400, "normal")
    ]
    fonts.sort(
        key=lambda font: (font.name != _DEFAULT, not font.name.startswith("Noto Sans"), font.name)
    )
    letters = {ord(character) for character in text if not character.isspace()}
    missing = letters - _coverage(fonts[0].fname)
    if not missing:
        return (_DEFAULT,)
    whole = (
        font
        for font in fonts
        if _PLACEHOLDERS not in font.name and missing <= _coverage(font.fname)
    )
    found = next(whole, None)
    return None if found is None else (_DEFAULT, found.name)


@cache
def _coverage(path: str) -> frozenset[int]:
    from matplotlib import ft2font

    return frozenset(ft2font.FT2Font(path).get_charmap())
