"""Telephone numbers in running text, told from order numbers, dates, versions and ISBNs.

A number written as telephone numbers are (+44 20 ..., (212) 555-0142, 06 12 34 56 78) counts by its
form; bare digits count only where words before them speak of a telephone. Nothing that is
introduced as an order, invoice or serial number counts.
"""

from __future__ import annotations

import re

from tunewright.data.audit.checksums import ean13, isbn10, luhn

WINDOW = 48
"""Characters before a number that are read for what kind of number it is."""
CANDIDATE = re.compile(
    r"(?<![\w.,:/#$€£%=@+&-])(?:\+ ?|00 ?)?\(?\d(?:[ ().\-–/\u00a0\u202f]{0,3}\d){5,16}"
    r"(?:(?:[ ,]{0,2}(?:ext\.?|extension|x|#) ?)\d{1,6})?"
    r"(?![\w%€£$°]|[.,:/-]\d| ?(?:%|kg|km|cm|mm|ml|gb|mb)\b)",
    re.IGNORECASE,
)
_EXTENSION = re.compile(r"[ ,]{0,2}(?:ext\.?|extension|x|#) ?\d{1,6}$", re.IGNORECASE)
_PHONE_WORDS = re.compile(
    r"\b(?:tel|telephone|phone|cell|cellphone|mobile|mob|fax|whatsapp|call|calls|called"
    r"|calling"
    r"|ring|rings|dial|hotline|sms|text(?:ed)? (?:me|us|him|her|them)|reach(?:ed|able)?|landline"
    r"|pager"
    r"|voicemail"
    r"|telefon|telefono|teléfono|téléphone|telefone|móvil|movil|celular|cellulare|handy|mobil"
    r"|mobiel"
    r"|numéro|appele[rz]|llam[ae]r?|anrufen|ruf|rufnummer|bel|gsm|telefoon|puhelin|tlf"
    r"|tlfn"
    r"|ligue|chiamare|contact(?:ed)? (?:me|us|him|her|them)|my (?:new |old )?number(?: is)?)\b",
    re.IGNORECASE,
)
_OTHER_WORDS = (
    r"order|orders|invoice|receipt|ticket|case|ref|reference|referenz|tracking|parcel|shipment"
    r"|serial|sku|item"
    r"|part|article|isbn|issn|ean|upc|gtin|doi|pmid|model|version|release|build|firmware|po"
    r"|purchase"
    r"|account|acct|konto|kontonummer|customer|client|member|membership|user|booking"
    r"|confirmation|reservation"
    r"|policy|imei|iccid|hash|commit|id|code|pin|otp|vin|lot|batch|product|transaction|payment"
    r"|request|incident|claim|contract|licen[cs]e|permit|patent|vat|tax|flight|page|pages|line|row"
    r"|chapter|section|clause|paragraph|timestamp|date|dated|bestellung|bestellnummer|rechnung"
    r"|rechnungsnummer|auftrag|kundennummer|sendung|commande|facture|pedido|factura|ordine|fattura"
    r"|barcode|card|zip|plz|postcode|postal|coordinates|lat|latitude|longitude|asset|docket|file"
    r"|zone|port"
)
_OTHER = re.compile(
    rf"(?:\b(?:{_OTHER_WORDS})|#|№)"
    r"(?:[\s:=(\"'*#.,-]|\b(?:number|numbers|nr|no|num|nummer|numéro|número|id|code|is|was|are"
    r"|of|the|my|your"
    r"|our|says|with|for|and)\b)*$",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d{2}[-./ ](?:0?[1-9]|1[0-2])[-./ ](?:0?[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[-./](?:0?[1-9]|[12]\d|3[01])[-./](?:19|20)\d{2})(?!\d)"
)
_NANP = re.compile(r"(?:\+?1[-. ]?)?(?:\([2-9]\d{2}\)[-. ]?|[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}")
_LOCAL = re.compile(r"[2-9]\d{2}[-. ]\d{4}")
_AREA_IN_BRACKETS = re.compile(r"\(\d{2,5}\)[ -]?\d{3,5}[ -]?\d{3,5}")
# Country calling codes (ITU-T E.164), as prefixes.
_CALLING = frozenset(
    str.split(
        "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 "
        "62 63 "
        "64 65 66 81 82 84 86 90 91 92 93 94 95 98"
    )
) | {str(code) for code in (*range(211, 300), *range(350, 390), *range(420, 424),
                            *range(500, 510), *range(590, 600), *range(670, 693), 800, 808, 850,
                            852, 853, 855, 856, 870, 880, 886, *range(960, 999))}  # fmt: skip


def find_phones(text: str) -> list[tuple[int, int]]:
    """(start, end) of each telephone number in a text."""
    found = []
    for match in CANDIDATE.finditer(text):
        start, end = match.span()
        window = text[max(0, start - WINDOW) : start].rpartition("\n")[2]
        if not _OTHER.search(window) and _is_phone(match.group(), window):
            found.append((start, end))
    return found


def _is_phone(written: str, window: str) -> bool:
    body = _EXTENSION.sub("", written).strip()
    digits = re.sub(r"\D", "", body)
    if _DATE.search(body) or _is_book(body, digits) or len(set(digits)) < 3:
        return False
    spoken = _spoken_of(window)
    if body.startswith("+"):
        return _is_international(digits)
    if body.startswith("00") and 10 <= len(digits) <= 17:
        return _is_international(digits[2:]) and (spoken or body != digits)
    if _NANP.fullmatch(body):
        return True
    if _LOCAL.fullmatch(body):
        return spoken or digits.startswith("555")
    separated = body != digits
    if body[0] == "0" and digits[1] != "0" and 9 <= len(digits) <= 12:
        return spoken or (separated and _groups_like_phone(body))
    if _AREA_IN_BRACKETS.fullmatch(body) and 8 <= len(digits) <= 12:
        return True
    if spoken and " / " not in body:  # "2400 / 200" is arithmetic
        return 7 <= len(digits) <= 14
    return _is_freephone(body)


def _spoken_of(window: str) -> bool:
    """True where the words before speak of a telephone, and of no other number after it."""
    words = list(_PHONE_WORDS.finditer(window))
    if not words:
        return False
    rest = window[words[-1].end() :]
    return not re.search(rf"\b(?:{_OTHER_WORDS})\b", rest, re.IGNORECASE)


def _is_international(digits: str) -> bool:
    if not 8 <= len(digits) <= 15:
        return False
    if digits[0] == "1":
        return len(digits) == 11 and digits[1] in "23456789" and digits[4] in "23456789"
    return any(digits[:size] in _CALLING for size in (1, 2, 3))


def _is_book(body: str, digits: str) -> bool:
    """True for ISBNs and other numbers whose last digit is a check of their own."""
    if len(digits) == 13 and digits[:3] in ("978", "979"):
        return ean13(digits)
    hyphens = body.count("-")
    return len(digits) == 10 and hyphens == 3 and isbn10(digits)


def _groups_like_phone(body: str) -> bool:
    """Two to six groups, none but the first and last longer than four digits, not a card's form."""
    groups = re.findall(r"\d+", body)
    if not 2 <= len(groups) <= 6 or ("." in body and "-" in body):
        return False
    if len(groups) == 3 and "-" in body and luhn("".join(groups)) and len(groups[2]) == 1:
        return False
    return len(groups[0]) <= 6 and max(map(len, groups)) <= 8


def _is_freephone(body: str) -> bool:
    return bool(re.fullmatch(r"1?[-. ]?8(?:00|33|44|55|66|77|88)[-. ]\d{3}[-. ]\d{4}", body))
