"""Email addresses: which are valid, and which of them name the same mailbox."""

import unicodedata

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import assume, example, given
from hypothesis import strategies as st

from schemas.emails import is_address, mailbox, readable


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("Bob@Example.ORG", "bob@example.org"),
        ("rene\u0301@example.org", "ren\u00e9@example.org"),
        ("J\u030c@example.org", "\u01f0@example.org"),
        ("a@b\u00fccher.de", "a@xn--bcher-kva.de"),
        ("a@XN--BCHER-KVA.de", "a@xn--bcher-kva.de"),
        ("A@BU\u0308CHER\u3002DE", "a@xn--bcher-kva.de"),
        ("a@\uff45\uff58\uff41.com", "a@exa.com"),
        ("stra\u00dfe@stra\u00dfe.de", "stra\u00dfe@xn--strae-oqa.de"),
        ("\u0130@example.org", "i\u0307@example.org"),
        ("A..B.@docomo.ne.jp", "a..b.@docomo.ne.jp"),
    ],
)
def test_spellings_of_an_address_name_the_same_mailbox(address: str, key: str) -> None:
    assert is_address(address)
    assert (mailbox(address), mailbox(key)) == (key, key)


@pytest.mark.parametrize("address", ["a@b\u00fccher.de", "a@xn--bcher-kva.de", "a@BU\u0308CHER.de"])
def test_a_readable_address_has_its_domain_in_unicode(address: str) -> None:
    assert readable(address) == "a@b\u00fccher.de"


@given(st.emails() | st.text())
def test_the_mailbox_of_a_mailbox_is_itself(text: str) -> None:
    key = mailbox(text)
    assert mailbox(key) == key
    assert readable(text) is not None


@given(st.text(st.characters(categories=["L", "M", "N"]), min_size=1))
def test_the_unicode_normal_form_of_an_address_makes_no_difference(local_part: str) -> None:
    addresses = {unicodedata.normalize(form, f"{local_part}@example.org") for form in ("NFC", "NFD")}
    if all(map(is_address, addresses)):
        assert len({mailbox(address) for address in addresses}) == 1


_DOMAINS = st.sampled_from(
    ["example.org", "EXAMPLE.org", "xn--bcher-kva.de", "xn--a", "localhost", "a.b", "b\u00fccher.de"]
)
_LOCAL_PARTS = st.emails().map(lambda address: address.rpartition("@")[0]) | st.text('aZ0.+-_ "<>@\u00e9', max_size=6)


@given(st.emails() | st.text() | st.builds("{}@{}".format, _LOCAL_PARTS, _DOMAINS | st.text()))
@example("a" * 242 + "@example.org")
@example("a" * 243 + "@example.org")
@example("a@" + "xn--bcher-kva." * 17 + "example.org")
@example("a@example.org\n")
@example("a\n@example.org")
@example("@example.org")
def test_addresses_are_those_that_email_validator_accepts(text: str) -> None:
    assume(not text.lower().endswith(".ne.jp"))  # domains with rules of their own
    try:
        validate_email(text, check_deliverability=False)
    except EmailNotValidError:
        assert not is_address(text)
    else:
        assert is_address(text)
