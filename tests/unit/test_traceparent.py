"""The header `traceparent`. The cases are those of the test suite of W3C Trace Context."""

import pytest

from topics.traceparent import read_traceparent

TRACE, PARENT = "12345678901234567890123456789012", "1234567890123456"
VALID = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize("value", [VALID, f"00-{TRACE}-{PARENT}-00", f"00-{'a' * 32}-{'f' * 16}-ff"])
def test_a_valid_traceparent_is_passed_on(value: str) -> None:
    assert read_traceparent(value.encode()) == value


@pytest.mark.parametrize("value", [f"cc-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like"])
def test_a_later_version_is_passed_on_as_version_00(value: str) -> None:
    assert read_traceparent(value.encode()) == VALID


@pytest.mark.parametrize(
    "value",
    [
        "", "x" * 1_001, VALID * 100, VALID.upper() + "A", f"{VALID}\n", f" {VALID}", f"{VALID}, {VALID}",
        f"00-{TRACE}-{PARENT}-01-", f"00-{TRACE}-{PARENT}-01-more", f"00-{TRACE}-{PARENT}-01.more",
        f"cc-{TRACE}-{PARENT}-01.more", f"cc-{TRACE}-{PARENT}-01x", f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01", f"000-{TRACE}-{PARENT}-01", f".0-{TRACE}-{PARENT}-01", f"CC-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-.{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT[:-1]}A-01", f"00-{TRACE}0-{PARENT}-01", f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}0-01", f"00-{TRACE}-{PARENT[1:]}-01", f"00-{TRACE}-{PARENT}-001", f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}", f"00x{TRACE}-{PARENT}-01", "\N{ARABIC-INDIC DIGIT ONE}" * 55,
    ],
)  # fmt: skip
def test_an_invalid_traceparent_is_ignored(value: str) -> None:
    assert read_traceparent(value.encode()) is None


@pytest.mark.parametrize("value", [b"\xff" * 55, b"\0" * 55])
def test_a_traceparent_that_is_not_ascii_is_ignored(value: bytes) -> None:
    assert read_traceparent(value) is None
