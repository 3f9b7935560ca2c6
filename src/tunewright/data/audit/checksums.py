"""Check digits of cards, bank accounts and national numbers: arithmetic alone, no patterns."""

from __future__ import annotations

from collections.abc import Sequence

# Dihedral group D5, as Verhoeff 1969 uses it.
_D5 = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 0, 6, 7, 8, 9, 5), (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7), (4, 0, 1, 2, 3, 9, 5, 6, 7, 8), (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2), (7, 6, 5, 9, 8, 2, 1, 0, 4, 3), (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)  # fmt: skip
_TURNS = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 5, 7, 6, 2, 8, 3, 0, 9, 4), (5, 8, 0, 3, 7, 9, 6, 1, 4, 2),
    (8, 9, 1, 6, 0, 4, 3, 5, 2, 7), (9, 4, 5, 3, 1, 2, 6, 8, 7, 0), (4, 2, 8, 6, 5, 7, 3, 9, 0, 1),
    (2, 7, 9, 3, 8, 0, 6, 4, 1, 5), (7, 0, 4, 6, 9, 1, 3, 2, 5, 8),
)  # fmt: skip
_ODD_CODICE = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25,
               24, 23)  # fmt: skip
# Length of an IBAN by country (SWIFT registry, release 99).
IBAN_LENGTHS = {
    code: int(length)
    for code, length in (
        item.split(":")
        for item in [
            "AD:24",
            "AE:23",
            "AL:28",
            "AT:20",
            "AZ:28",
            "BA:20",
            "BE:16",
            "BG:22",
            "BH:22",
            "BI:27",
            "BR:29",
            "BY:28",
            "CH:21",
            "CR:22",
            "CY:28",
            "CZ:24",
            "DE:22",
            "DJ:27",
            "DK:18",
            "DO:28",
            "EE:20",
            "EG:29",
            "ES:24",
            "FI:18",
            "FK:18",
            "FO:18",
            "FR:27",
            "GB:22",
            "GE:22",
            "GI:23",
            "GL:18",
            "GR:27",
            "GT:28",
            "HR:21",
            "HU:28",
            "IE:22",
            "IL:23",
            "IQ:23",
            "IS:26",
            "IT:27",
            "JO:30",
            "KW:30",
            "KZ:20",
            "LB:28",
            "LC:32",
            "LI:21",
            "LT:20",
            "LU:20",
            "LV:21",
            "LY:25",
            "MC:27",
            "MD:24",
            "ME:22",
            "MK:19",
            "MN:20",
            "MR:27",
            "MT:31",
            "MU:30",
            "NI:28",
            "NL:18",
            "NO:15",
            "OM:23",
            "PK:24",
            "PL:28",
            "PS:29",
            "PT:25",
            "QA:29",
            "RO:24",
            "RS:22",
            "RU:33",
            "SA:24",
            "SC:31",
            "SD:18",
            "SE:24",
            "SI:19",
            "SK:24",
            "SM:27",
            "SO:23",
            "ST:25",
            "SV:28",
            "TL:23",
            "TN:24",
            "TR:26",
            "UA:29",
            "VA:22",
            "VG:24",
            "XK:20",
        ]
    )
}


def luhn(digits: str) -> bool:
    """True where the last digit is right by Luhn's sum (ISO/IEC 7812)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def mod97(text: str) -> int:
    """Remainder by 97 of letters and digits, A as 10 to Z as 35 (ISO/IEC 7064)."""
    return int("".join(str(int(char, 36)) for char in text)) % 97


def iban(text: str) -> bool:
    """True for a whole IBAN without spaces: known country, its length, right check digits."""
    text = text.upper()
    return IBAN_LENGTHS.get(text[:2]) == len(text) and mod97(text[4:] + text[:4]) == 1


def verhoeff(digits: str) -> bool:
    """True where Verhoeff's check digit is right."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = _D5[check][_TURNS[place % 8][int(digit)]]
    return check == 0


def weighted(digits: str, weights: Sequence[int]) -> int:
    """The sum of the digits, each times its weight."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def mod11_10(digits: str) -> bool:
    """True by ISO/IEC 7064 MOD 11,10 (German tax numbers)."""
    product = 10
    for digit in digits[:-1]:
        total = (int(digit) + product) % 10 or 10
        product = (2 * total) % 11
    return (11 - product) % 10 == int(digits[-1])


def ean13(digits: str) -> bool:
    """True where the last of 13 digits is right by EAN (also ISBN-13, Swiss AHV)."""
    return len(digits) == 13 and weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


def isbn10(text: str) -> bool:
    """True for ten digits, the last perhaps X, with a right ISBN-10 check digit."""
    if len(text) != 10 or not text[:9].isdigit():
        return False
    last = 10 if text[9] in "xX" else int(text[9]) if text[9].isdigit() else -1
    return last >= 0 and (weighted(text[:9], range(10, 1, -1)) + last) % 11 == 0


def cpf(digits: str) -> bool:
    """True for a Brazilian CPF: eleven digits, two of them checks, not all the same."""
    if len(set(digits)) == 1:
        return False
    first = weighted(digits[:9], range(10, 1, -1)) * 10 % 11 % 10
    second = weighted(digits[:10], range(11, 1, -1)) * 10 % 11 % 10
    return digits[9:] == f"{first}{second}"


def cnpj(digits: str) -> bool:
    """True for a Brazilian CNPJ of fourteen digits."""
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    first = 11 - weighted(digits[:12], weights[1:]) % 11
    second = 11 - weighted(digits[:13], weights) % 11
    return digits[12:] == f"{first if first < 10 else 0}{second if second < 10 else 0}"


def codice_fiscale(text: str) -> bool:
    """True where the last of the sixteen characters of an Italian codice fiscale is right."""
    total = 0
    for place, char in enumerate(text[:15]):
        value = int(char) if char.isdigit() else ord(char) - 65
        total += value if place % 2 else _ODD_CODICE[value]
    return chr(65 + total % 26) == text[15]


def fodselsnummer(digits: str) -> bool:
    """True for a Norwegian fodselsnummer: two check digits modulo 11."""
    first = (11 - weighted(digits[:9], (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11) % 11
    second = (11 - weighted(digits[:10], (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11) % 11
    return digits[9:] == f"{first}{second}"


def resident_id(text: str) -> bool:
    """True where the last of the 18 characters of a Chinese resident number is right."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[weighted(text[:17], weights) % 11] == text[17].upper()


def is_day(year: int, month: int, day: int) -> bool:
    """True for a month of 1 to 12 and a day that it may have; year as two or four digits."""
    longest = 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31
    return year >= 0 and 1 <= month <= 12 and 1 <= day <= longest
