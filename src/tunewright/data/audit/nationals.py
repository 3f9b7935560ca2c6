"""National identity and tax numbers by country: their form, their check digits, their names.

A number whose form is common (nine or ten bare digits) counts only beside a word that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tunewright.data.audit import checksums
from tunewright.data.audit.checksums import is_day, weighted

Check = Callable[[str], bool]
NEAR = 40
"""Characters before a number in which the word that names it may stand."""
_OTHER_NUMBER = re.compile(
    r"(?:\b(?:order|invoice|ticket|case|ref|reference|tracking|parcel|shipment|serial|sku|item"
    r"|part|isbn"
    r"|imei|model|version|booking|transaction|barcode|batch|lot|timestamp|phone|tel|mobile)|#)"
    r"(?:[\s:=(#.-]|\b(?:number|nr|no|id|code|is|was|of|the|my|your)\b)*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class NationalId:
    """One kind of number. check takes the letters and digits alone, upper case.

    words: where given, one of them must stand shortly before the number.
    """

    country: str
    name: str
    pattern: re.Pattern[str]
    check: Check
    words: re.Pattern[str] | None = None


def find_national_ids(text: str) -> list[tuple[int, int, str]]:
    """(start, end, country and name) of each national number in a text."""
    found = []
    for kind in NATIONAL_IDS:
        for match in kind.pattern.finditer(text):
            bare = re.sub(r"[^0-9A-Za-z]", "", match.group()).upper()
            if not kind.check(bare):
                continue
            before = text[max(0, match.start() - NEAR) : match.start()]
            named = kind.words is not None and kind.words.search(before)
            if named or (kind.words is None and not _OTHER_NUMBER.search(before)):
                found.append((match.start(), match.end(), f"{kind.country} {kind.name}"))
    return found


def _ssn(bare: str) -> bool:
    return (
        bare[:3] not in ("000", "666")
        and bare[0] != "9"
        and bare[3:5] != "00"
        and bare[5:] > "0000"
    )


def _nhs(bare: str) -> bool:
    return (11 - weighted(bare, range(10, 1, -1)) % 11) % 11 == int(bare[9])


def _nir(bare: str) -> bool:
    body = bare[:13].replace("2A", "19").replace("2B", "18")
    return body.isdigit() and 97 - int(body) % 97 == int(bare[13:])


def _dni(bare: str) -> bool:
    number = {"X": "0", "Y": "1", "Z": "2"}.get(bare[0], bare[0]) + bare[1:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == bare[-1]


def _bsn(bare: str) -> bool:
    return bare != "0" * 9 and weighted(bare, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def _pesel(bare: str) -> bool:
    total = weighted(bare[:10], (1, 3, 7, 9, 1, 3, 7, 9, 1, 3))
    day = is_day(int(bare[:2]), int(bare[2:4]) % 20, int(bare[4:6]))
    return day and (10 - total % 10) % 10 == int(bare[10])


def _personnummer(bare: str) -> bool:
    bare = bare[-10:]
    day = int(bare[4:6])
    date = is_day(int(bare[:2]), int(bare[2:4]), day - 60 if day > 60 else day)
    return date and checksums.luhn(bare)


def _hetu(bare: str) -> bool:
    date = is_day(int(bare[4:6]), int(bare[2:4]), int(bare[:2]))
    return date and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(bare[:6] + bare[-4:-1]) % 31] == bare[-1]


def _belgian(bare: str) -> bool:
    body, check = int(bare[:9]), int(bare[9:])
    return check in (97 - body % 97, 97 - int(f"2{bare[:9]}") % 97)


def _cpr(bare: str) -> bool:
    return is_day(int(bare[4:6]), int(bare[2:4]), int(bare[:2]))


def _fodselsnummer(bare: str) -> bool:
    day, month = int(bare[:2]) % 40, int(bare[2:4]) % 40
    return is_day(int(bare[4:6]), month, day) and checksums.fodselsnummer(bare)


def _tfn(bare: str) -> bool:
    return weighted(bare, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def _resident(bare: str) -> bool:
    date = is_day(int(bare[6:10]), int(bare[10:12]), int(bare[12:14]))
    return date and 1880 < int(bare[6:10]) < 2100 and checksums.resident_id(bare)


def _south_african(bare: str) -> bool:
    date = is_day(int(bare[:2]), int(bare[2:4]), int(bare[4:6]))
    return date and bare[10] in "01" and checksums.luhn(bare)


def _nif(bare: str) -> bool:
    rest = 11 - weighted(bare[:8], range(9, 1, -1)) % 11
    return (rest if rest < 10 else 0) == int(bare[8])


def _korean(bare: str) -> bool:
    total = weighted(bare[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5))
    date = is_day(int(bare[:2]), int(bare[2:4]), int(bare[4:6]))
    return date and (11 - total % 11) % 10 == int(bare[12])


def _steuer_id(bare: str) -> bool:
    return bare[0] != "0" and len(set(bare[:10])) in (8, 9) and checksums.mod11_10(bare)


def _always(bare: str) -> bool:
    return True


def _kind(
    country: str, name: str, pattern: str, check: Check, words: str | None = None
) -> NationalId:
    whole = re.compile(rf"(?<![\w.+/-]){pattern}(?![\w/]|[.-]\w)", re.IGNORECASE)
    near = re.compile(rf"(?:{words})", re.IGNORECASE) if words else None
    return NationalId(country, name, whole, check, near)


NATIONAL_IDS: tuple[NationalId, ...] = (
    _kind("US", "social security number", r"\d{3}-\d{2}-\d{4}", _ssn),
    _kind("US", "social security number", r"\d{3} ?\d{2} ?\d{4}", _ssn, r"\bssn\b|social security"),
    _kind("GB", "national insurance number",
          r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d{2}){3} ?[A-D]",
          _always),
    _kind("GB", "NHS number", r"\d{3}[ -]?\d{3}[ -]?\d{4}", _nhs, r"\bnhs\b"),
    _kind("DE", "Steuer-ID", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", _steuer_id,
          r"steuer|idnr|tax id|tax number|\btin\b"),
    _kind("FR", "NIR",
          r"[12] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", _nir),
    _kind("ES", "DNI", r"\d{8}[ -]?[TRWAGMYFPDXBNJZSQVHLCKE]", _dni),
    _kind("ES", "NIE", r"[XYZ][ -]?\d{7}[ -]?[TRWAGMYFPDXBNJZSQVHLCKE]", _dni),
    _kind("IT", "codice fiscale",
          r"[A-Z]{6}[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
          checksums.codice_fiscale),
    _kind("NL", "BSN", r"\d{4}[. ]?\d{2}[. ]?\d{3}", _bsn, r"\bbsn\b|burgerservice|sofinummer"),
    _kind("BR", "CPF", r"\d{3}\.\d{3}\.\d{3}-\d{2}", checksums.cpf),
    _kind("BR", "CPF", r"\d{11}", checksums.cpf, r"\bcpf\b"),
    _kind("BR", "CNPJ", r"\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}", checksums.cnpj),
    _kind("PL", "PESEL", r"\d{11}", _pesel),
    _kind("SE", "personnummer", r"(?:19|20)?\d{6}[-+]\d{4}", _personnummer),
    _kind("FI", "henkilötunnus", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", _hetu),
    _kind("NO", "fødselsnummer", r"\d{6} ?\d{5}", _fodselsnummer),
    _kind("DK", "CPR", r"\d{6}-\d{4}", _cpr, r"\bcpr\b|personnummer"),
    _kind("BE", "rijksregisternummer", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", _belgian),
    _kind("IN", "Aadhaar", r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", checksums.verhoeff,
          r"aadh?aar|\buid(?:ai)?\b"),
    _kind("CA", "social insurance number", r"\d{3}[ -]?\d{3}[ -]?\d{3}", checksums.luhn,
          r"\bsin\b|social insurance|assurance sociale"),
    _kind("AU", "tax file number", r"\d{3} ?\d{3} ?\d{3}", _tfn, r"\btfn\b|tax file"),
    _kind("CN", "resident number", r"[1-9]\d{16}[0-9X]", _resident),
    _kind("ZA", "ID number", r"\d{6} ?\d{4} ?\d{3}", _south_african),
    _kind("MX", "CURP", r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HMX][A-Z]{2}[B-DF-HJ-NP-TV-Z]{3}[0-9A-Z]\d",
          _always),
    _kind("PT", "NIF", r"\d{3} ?\d{3} ?\d{3}", _nif, r"\bnif\b|contribuinte"),
    _kind("KR", "resident number", r"\d{6}-[1-8]\d{6}", _korean),
    _kind("CH", "AHV number", r"756\.?\d{4}\.?\d{4}\.?\d{2}", checksums.ean13),
)  # fmt: skip
