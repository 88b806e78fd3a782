"""Which digits in a text are a payment card number, and which only look like one."""

import random
import sys
import time
import unicodedata
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cards import _candidates, holds_card_number, passes_luhn, without_digit_runs

TEST_NUMBERS = {
    "Visa": (
        "4242424242424242", "4000056655665556", "4111111111111111", "4988438843884305", "4646464646464644",
        "4012888888881881", "4009348888881881", "4500600000000061", "4222222222222", "4000000000000000006",
    ),
    "Mastercard": (
        "5555555555554444", "5200828282828210", "5105105105105100", "2223003122003222", "2222400070000005",
        "2223000048400011", "5136333333333335", "2720994326581252",
    ),
    "American Express": ("378282246310005", "371449635398431", "370000000000002", "341111111111111"),
    "Discover": ("6011111111111117", "6011000990139424", "6011601160116611", "6445644564456445", "6555900000604105"),
    "JCB": ("3566002020360505", "3530111333300000", "3569990010095841", "3528000700000000", "180000000000002"),
    "Maestro": (
        "6304000000000000", "6771798021000008", "6759649826438453", "6799990100000000019", "5000550000000029",
        "586824160825533338", "676770000005",
    ),
    "Diners Club": ("30569309025904", "38520000023237", "36227206271667", "36006666333344", "3056930009020004"),
    "UnionPay": (
        "6200000000000005", "6243030000000001", "8171999900000018", "62123456789002", "621234567890003",
        "6205500000000000004",
    ),
}  # fmt: skip
"""Test numbers published by Stripe, Adyen, Braintree, PayPal and the issuers; some are invented for rarer lengths."""
ALL_NUMBERS = [number for numbers in TEST_NUMBERS.values() for number in numbers]
NUMBER = "4111111111111111"


@pytest.mark.parametrize("number", ALL_NUMBERS)
def test_the_test_numbers_of_all_issuers_are_card_numbers(number: str) -> None:
    assert passes_luhn(number)
    assert holds_card_number(number)
    assert holds_card_number(f"my card: {number}.")
    assert not holds_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))


ZEROS = (0xFF10, 0x0660, 0x0966)
"""The code points of the digit zero in full width, Arabic and Devanagari. The other digits follow the zero."""
DISGUISED = [
    "4111 1111 1111 1111", "4111-1111-1111-1111", "4111  1111 - 1111 -1111", "4111\u00a01111\u00a01111\u00a01111",
    "4111\u20111111\u20111111\u20111111", "4111\u20131111\u20131111\u20131111", "4111\t1111\n1111\r\n1111",
    "4111\u200b111111111111", "4111\u00ad1111\u00ad1111\u00ad1111", "4111\x00111111111111", "4111\u2212111111111111",
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "41-11-11-11-11-11-11-11", "3782 822463 10005",
    *(NUMBER.translate({48 + digit: zero + digit for digit in range(10)}) for zero in ZEROS), "4\uff11" + NUMBER[2:],
]  # fmt: skip


@pytest.mark.parametrize("text", DISGUISED)
def test_a_card_number_is_found_despite_blanks_dashes_and_digits_of_other_scripts(text: str) -> None:
    assert holds_card_number(text)
    assert "1111" not in without_digit_runs(f"a {text} b")


def test_a_card_number_is_found_behind_every_blank_and_dash_of_unicode() -> None:
    characters = map(chr, range(sys.maxunicode + 1))
    separators = {character for character in characters if unicodedata.category(character) in ("Pd", "Zs")}
    for separator in sorted(separators | {"\N{MINUS SIGN}", "\N{HYPHEN BULLET}"}):
        text = separator.join(("4111", "1111", "1111", "1111"))
        assert holds_card_number(text), ascii(separator)
        assert "1111" not in without_digit_runs(text), ascii(separator)


@pytest.mark.parametrize("separator", ["\u301c", "\u1806", "\U00010ead"])
def test_the_time_of_the_search_is_linear_in_the_length_of_the_text(separator: str) -> None:
    def seconds(text: str) -> float:
        started_at = time.thread_time()
        holds_card_number(text)
        without_digit_runs(text)
        return time.thread_time() - started_at

    for part in (separator, f"1{separator}", f"1{separator * 9}x"):
        short, long = (min(seconds(part * count) for _ in range(5)) for count in (2_000, 20_000))
        assert long < 40 * short + 0.01, ascii(part)


@pytest.mark.parametrize(
    "text",
    [
        f"{NUMBER} 12/30", "4111 1111 1111 1111 12/27", f"{NUMBER} 123", f"75001 {NUMBER}", f"{NUMBER} - {NUMBER}",
        "1 4111-1111-1111-1111 2", f"8a707051-8433-4690-8e11-57bf6b0446e1 {NUMBER}", f"{NUMBER},12,27",
        f"FR-{NUMBER}-A", f"({NUMBER})", f"card:{NUMBER}", f"https://example.com/pay/{NUMBER}?ok=1",
        f"{NUMBER}/12/27", f"12.{NUMBER}", f"{{{NUMBER}}}", f"+{NUMBER}", f"\u202e{NUMBER}",
    ],
)  # fmt: skip
def test_a_card_number_is_found_next_to_other_texts_and_numbers(text: str) -> None:
    assert holds_card_number(text)


LOOKALIKES = [
    # Phone numbers.
    "+4915095425844x", "0033 631 573 042", "0033631573042", "00441632960961", "+33 6 31 57 30 42", "0044 20 7946 0958",
    # Times in milliseconds and in microseconds.
    "https://cdn.example.com/a.jpg?t=1647725122227", "1511691425844", "1732617999123456",
    # Hashes, push tokens and ids, which have letters next to their digits.
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "x378282246310005y", f"a{NUMBER}", f"{NUMBER}b",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709", "fcm:APA91bH4111111111111111XyZ", f"é{NUMBER}",
    "47223179-9330-4259-b66c-f2db26efb20c", "push to 8a707051-8433-4690-8e11-57bf6b0446e1 of Company 3",
    # Other numbers: an IBAN, a container, an EAN, an IMEI, a CSS transformation, an SSCC.
    "DE89 3704 0044 0532 0130 00", "9780306406157", "490154203237518", "0.989381727975", "00340434161094042557",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15", "2026-11-26 11:14:00.123456", "192.168.100.100 - 10.0.0.1", "4111 1111 1111",
    # French IBANs, whose digits start like those of Diners Club and have a valid check digit.
    "FR76 3000 4000 0312 3456 7890 143", "FR1430002000550000157841Z25",
    # Digits separated by characters other than blanks and dashes, and digits with a letter beside them.
    "4111.1111.1111.1111", "4111/1111/1111/1111", "4111 1111 1111 1111 2nd floor",
    # Longer than any card number.
    f"{NUMBER}{NUMBER}", f"9{NUMBER}", f"{NUMBER}0",
]  # fmt: skip


@pytest.mark.parametrize("text", LOOKALIKES)
def test_other_numbers_are_not_card_numbers(text: str) -> None:
    assert not holds_card_number(text)


def test_a_uuid_is_not_a_card_number_even_if_it_has_only_digits() -> None:
    generator = random.Random(1)
    for _ in range(2_000):
        digits = "".join(generator.choices("0123456789", k=32))
        assert not holds_card_number(f"of {UUID(digits)}, {UUID(digits)}")


@given(st.text("0123456789", min_size=15, max_size=15))
def test_exactly_one_check_digit_makes_a_card_number(digits: str) -> None:
    without_check_digit = f"4{digits[1:]}"
    check_digits = [digit for digit in "0123456789" if holds_card_number(without_check_digit + digit)]
    assert len(check_digits) == 1
    assert passes_luhn(without_check_digit + check_digits[0])


@given(st.text())
def test_every_text_can_be_searched_for_card_numbers(text: str) -> None:
    assert holds_card_number(text) in (True, False)
    assert isinstance(without_digit_runs(text), str)


@pytest.mark.parametrize("group", ["1", "123", "1234", "1" * 20])
def test_the_cost_of_the_search_is_linear_in_the_length_of_the_text(group: str) -> None:
    candidates = list(_candidates([group] * 10_000))
    assert sum(map(len, candidates)) <= 10_000 * (len(group) + 7 * 20)
