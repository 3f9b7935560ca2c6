"""Personal data by kind: what counts, what only looks like it."""

import pytest

from tunewright.data.audit.personal import find_personal


def kinds(text):
    return [(mark.kind, text[mark.start : mark.end]) for mark in find_personal(text)]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("email", "jo.b+x@mail.example.co.uk", "write to {}, please"),
        ("email", "jo (at) example (dot) com", "it is {}"),
        ("phone", "+44 20 7946 0231", "ring {}."),
        ("phone", "(212) 555-0142", "{}"),
        ("phone", "06 12 34 56 78", "{} or nothing"),
        ("phone", "4915112345", "my mobile {} is new"),
        ("iban", "DE89 3704 0044 0532 0130 00", "{} is ours"),
        ("iban", "gb29nwbk60161331926819", "to {}"),
        ("card", "4111-1111-1111-1111", "{} was refused"),
        ("card", "378282246310005", "amex {}"),
        ("ip", "203.0.113.57", "from {}, not from here"),
        ("ip", "2001:db8:85a3::8a2e:370:7334", "host {} is down"),
        ("national_id", "078-05-1120", "{} it was"),
        ("national_id", "12345678Z", "DNI {}"),
        ("national_id", "529.982.247-25", "{}"),
        ("key", "sk_test_NOT_A_REAL_KEY_0000", "the key {} fails"),
        ("key", "AKIAIOSFODNN7EXAMPLE", "{}"),
        ("password", "hunter2!x", "my password is: {}"),
        ("name", "Ada Lovelace", "Hello, my name is {} and"),
    ],
)
def test_found_whole_and_alone(kind, value, text):
    assert kinds(text.format(value)) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "order 4471-2295-0031 never came",
        "Order number: 212-555-0142",
        "ISBN 978-3-16-148410-0",
        "on 2024-03-12 at 14:22:05, and 12.03.2024",
        "version 10.0.19041.1 and v2.14.0.3",
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "4111 1111 1111 1112 has a wrong digit",
        "DE88 3704 0044 0532 0130 00 has wrong check digits",
        "see logo@2x.png, ask @ben, npm i left-pad@1.3.0",
        "git clone git@github.com:team/app.git",
        "I forgot my password, the password is wrong",
        "we paid 1.234.567,00 EUR for 12 345 678 bolts",
        "std::vector<int> at 127.0.0.1",
        "",
    ],
)
def test_what_only_looks_like_it(text):
    assert kinds(text) == []


def test_a_private_key_is_one_mark():
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\nxyz\n-----END RSA PRIVATE KEY-----"
    assert kinds(f"here:\n{key}\nthanks") == [("private_key", key)]


def test_a_long_line_is_read_in_linear_time():
    for text in ("a" * 300_000, "a@" * 100_000, "1 " * 150_000, "a.b" * 100_000, "(1" * 100_000):
        assert isinstance(find_personal(text), list)


def test_arithmetic_about_phones_is_no_number():
    assert kinds("The portable drive stores 2400 / 200 = 12; $1000 / 200 phones = 5 a phone") == []
