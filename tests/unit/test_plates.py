"""The key of a licence plate, by which its spellings are compared."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.plates import plate_key
from storage.folding import plain_beyond_key, plain_plate

SPELLINGS_BY_KEY = {
    # Germany: a letter as one code point and as two, with invisible characters in between.
    "GÖXY101": [
        "GÖ-XY 101",
        "go\u0308-xy 101",
        "GO\u200d\u0308 XY·101",
        "\ufeffGO\u034f\u0308XY101\u200f",
        "gÖ_xy\u2014101",
    ],
    # Japan and OCR engines: full width, kana in half width or with a separate voicing mark, mathematical letters.
    "AB12": [
        "\uff21\uff22\uff11\uff12",
        "ab\u3000\uff0d\uff11\uff12",
        "\U0001d400\U0001d401 \U0001d7cf\U0001d7d0",
        "ⓐⓑ①②",
    ],
    "パい12": ["\uff8a\uff9f い 12", "ハ\u309aい-\uff11\uff12", "パい 12"],
    # Egypt, Saudi Arabia, Iran: Arabic digits, separated letters, a stretched letter, presentation forms.
    "أبج123": ["أ ب ج \u0661\u0662\u0663", "\u0627\u0654بج 123", "أبج \u06f1\u06f2\u06f3"],
    "\u064712": ["هـ \u0661\u0662", "\u0647 12", "\ufeeb12"],
    # India and Thailand.
    "क्ष1": ["क्ष १", "क्\u200dष-1"],
    "ท12": ["ท ๑๒", "ท-12"],
    # Letters whose capital is two letters, keycaps, fractions.
    "SS1": ["ß1", "ẞ-1", "ss 1"],
    "FI1": ["\ufb011", "Fi-1"],
    "İ1": ["İ 1", "i\u03071"],
    "I1": ["\u01311", "i1"],
    "1": ["1\ufe0f\u20e3", "⒈", "1\u0308"],
    "12": ["½", "1/2"],
}


@pytest.mark.parametrize("key", SPELLINGS_BY_KEY)
def test_all_spellings_of_a_plate_have_the_same_key(key: str) -> None:
    spellings = SPELLINGS_BY_KEY[key]
    assert {spelling: plate_key(spelling) for spelling in spellings} == dict.fromkeys(spellings, key)


@pytest.mark.parametrize(
    "plate",
    [
        "", "-", "???", " \t\u00a0\u3000", "\u0308", "-\u0308", "\u200d", "\u3164\u1160", "\u0640\u064e", "\U0001f697",
        "—·•", "\U000e0041", "\ufe0f\u20e3",
    ],
)  # fmt: skip
def test_a_plate_without_letters_and_digits_has_an_empty_key(plate: str) -> None:
    assert plate_key(plate) == plain_plate(plate) == ""


@pytest.mark.parametrize(
    ("plate", "other_plate"),
    [
        ("GÖ 1", "GO 1"),
        ("\N{CYRILLIC CAPITAL LETTER A}1", "A1"),
        ("بَ1", "ب1"),
        ("\u30cf1", "\u30d01"),
        ("\u30071", "01"),
    ],
)
def test_plates_that_differ_in_a_letter_or_a_mark_have_different_keys(plate: str, other_plate: str) -> None:
    assert plate_key(plate) != plate_key(other_plate)


@given(st.text())
def test_a_key_has_only_letters_marks_and_numbers_and_is_its_own_key(plate: str) -> None:
    key = plate_key(plate)
    assert {unicodedata.category(character)[0] for character in key} <= {"L", "M", "N"}
    assert plate_key(key) == key


@given(st.text(st.characters(exclude_characters="\u0345")), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_the_unicode_normal_form_of_a_plate_makes_no_difference(plate: str, form: str) -> None:
    assert plate_key(unicodedata.normalize(form, plate)) == plate_key(plate)


@given(st.text(st.characters(max_codepoint=127)))
def test_the_key_of_an_ascii_plate_is_its_letters_and_digits_in_upper_case(plate: str) -> None:
    assert plate_key(plate) == "".join(character for character in plate.upper() if character.isalnum())
    assert plain_beyond_key(plate) is None
