"""The names of the Goldfish models: a causal model of each of 350 languages alone.

Chang, Arnett, Tu and Bergen 2024, *Goldfish: Monolingual Language Models for 350 Languages*. Each
was trained on 5, 10, 100 or 1000 MB of text, counted as English takes bytes; the largest of a
language with less than 1000 MB is called `full`.
"""

from __future__ import annotations

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["goldfish_name"]

SIZES = ("5mb", "10mb", "100mb", "1000mb", "full")

_LARGE = """
af:afr_latn am:amh_ethi ar:arb_arab az:aze_latn be:bel_cyrl bg:bul_cyrl bn:ben_beng bs:bos_latn
bs-cyrl:bos_cyrl ca:cat_latn cs:ces_latn cy:cym_latn da:dan_latn de:deu_latn el:ell_grek en:eng_latn
eo:epo_latn es:spa_latn et:est_latn eu:eus_latn fa:fas_arab fi:fin_latn fil:fil_latn fr:fra_latn
gl:glg_latn gu:guj_gujr ha:hau_latn he:heb_hebr hi:hin_deva hr:hrv_latn hu:hun_latn hy:hye_armn
id:ind_latn is:isl_latn it:ita_latn ja:jpn_jpan ka:kat_geor kk:kaz_cyrl kn:kan_knda ko:kor_hang
ky:kir_cyrl la:lat_latn lt:lit_latn lv:lav_latn mk:mkd_cyrl ml:mal_mlym mn:mon_cyrl mr:mar_deva
ms:msa_latn mt:mlt_latn nb:nob_latn ne:nep_deva nl:nld_latn no:nor_latn pa:pan_guru pl:pol_latn
ps:pus_arab pt:por_latn ro:ron_latn ru:rus_cyrl si:sin_sinh sk:slk_latn sl:slv_latn so:som_latn
sq:sqi_latn sr:srp_cyrl sr-latn:srp_latn sv:swe_latn sw:swa_latn ta:tam_taml te:tel_telu tg:tgk_cyrl
th:tha_thai tl:tgl_latn tr:tur_latn tt:tat_cyrl uk:ukr_cyrl ur:urd_arab uz:uzb_latn vi:vie_latn
zh:zho_hans
"""
"""Key of a language → the name of its model, of which there is one of 1000 MB."""

_FULL = """
ak:aka_latn as:asm_beng ba:bak_cyrl bm:bam_latn bo:bod_tibt br:bre_latn ce:che_cyrl ceb:ceb_latn
ckb:ckb_arab cv:chv_cyrl dv:div_thaa ee:ewe_latn ff:ful_latn fo:fao_latn fy:fry_latn ga:gle_latn
gd:gla_latn gn:grn_latn haw:haw_latn ht:hat_latn ig:ibo_latn jv:jav_latn jw:jav_latn km:khm_khmr
ku:kur_latn lb:ltz_latn lg:lug_latn ln:lin_latn lo:lao_laoo mg:mlg_latn mi:mri_latn my:mya_mymr
nn:nno_latn nso:nso_latn ny:nya_latn oc:oci_latn om:orm_latn or:ori_orya qu:que_latn rn:run_latn
rw:kin_latn sa:san_deva sd:snd_arab sm:smo_latn sn:sna_latn ss:ssw_latn st:sot_latn su:sun_latn
ti:tir_ethi tk:tuk_latn tn:tsn_latn ts:tso_latn tw:twi_latn ug:uig_arab ve:ven_latn wo:wol_latn
xh:xho_latn yi:yid_hebr yo:yor_latn yue:yue_hant zh-hant:zho_hant zu:zul_latn
"""
"""The same for those whose largest model is `full`."""


def goldfish_name(language: Language, size: str = "") -> str:
    """Return the name of the Goldfish model of a language on the Hub.

    Args:
        language: The key: a language, with a script where that is not the usual one.
        size: "5mb", "10mb", "100mb", "1000mb" or "full"; default the largest that the language has.

    Returns:
        The name of the repository.

    Raises:
        ConfigurationError: If there is no such size, or no model of the language is known here.

    Example:
        >>> goldfish_name("sw"), goldfish_name("zh-Hant"), goldfish_name("en", "100mb")[-14:]
        ('goldfish-models/swa_latn_1000mb', 'goldfish-models/zho_hant_full', 'eng_latn_100mb')
    """
    if size and size not in SIZES:
        raise ConfigurationError(
            f"A size of Goldfish must be one of {list(SIZES)}. Found {size!r}. Leave it out for the"
            " largest."
        )

    for names, largest in ((_read(_LARGE), "1000mb"), (_read(_FULL), "full")):
        name = _find(language, names)
        if name:
            return f"goldfish-models/{name}_{size or largest}"

    raise ConfigurationError(
        f"Goldfish has 350 languages, of which this package knows the common ones. Found"
        f" {language!r}. Look for its model on huggingface.co/goldfish-models, and name it:"
        f" `--reference goldfish {language}=goldfish-models/NAME`."
    )


def _read(table: str) -> dict[str, str]:
    return dict(entry.split(":") for entry in table.split())


def _find(language: Language, names: dict[str, str]) -> str:
    """The name for a key such as "sw", "zh-Hant", "sw-Latn", "swa" or "swa-Latn"."""
    key = language.lower().replace("_", "-")
    if key in names:
        return names[key]

    head, _, script = key.partition("-")
    name = names.get(head, "")
    if script and name.endswith(f"_{script}"):
        return name

    codes = [code for code in names.values() if code in (key.replace("-", "_"), f"{head}_{script}")]
    if not script:
        codes += [code for code in names.values() if code.startswith(f"{head}_")]
    return codes[0] if codes else ""
