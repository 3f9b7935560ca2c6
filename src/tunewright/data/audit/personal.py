"""Personal data and secrets in a text: where they stand and of which kind. Redaction: redact.py.

Structured kinds are told by form, check digits and the words before them; names are only possible.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from tunewright.data.audit.checksums import IBAN_LENGTHS, iban, luhn
from tunewright.data.audit.names import find_names
from tunewright.data.audit.nationals import find_national_ids
from tunewright.data.audit.phones import find_phones
from tunewright.data.audit.secrets import find_secrets

KINDS = {
    "private_key": "private key",
    "key": "API key or token",
    "password": "password",
    "email": "e-mail address",
    "iban": "bank account number (IBAN)",
    "card": "payment card number",
    "ip": "IP address",
    "national_id": "national identity number",
    "phone": "telephone number",
    "name": "possible name",
}
"""Kind to the words for it, in the order in which one wins where two claim the same stretch."""
STRUCTURED = tuple(kind for kind in KINDS if kind != "name")

_EMAIL = re.compile(
    r"(?<![\w.+%'/=-])[\w!#$%&'*+/=?^`{|}~-]{1,64}(?:\.[\w!#$%&'*+/=?^`{|}~-]{1,64}){0,6}"
    r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,6}[^\W\d_]{2,24}(?![\w@-]|\.\w)"
)
_EMAIL_IN_WORDS = re.compile(
    r"(?<![\w.])[\w.+-]{2,64} ?[(\[{] ?at ?[)\]}] ?[\w-]{1,63}"
    r"(?: ?(?:\.|[(\[{] ?dot ?[)\]}]) ?[\w-]{2,63}){1,4}",
    re.IGNORECASE,
)
# Endings that files have and domains have not: "logo@2x.png".
_FILE_ENDINGS = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "js",
        "css",
        "ts",
        "json",
        "html",
        "htm",
        "pdf",
        "txt",
        "md",
        "py",
    ]
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_CARD = re.compile(
    r"(?<![\w.-])(?:\d{4}([ -]?)\d{4}\1\d{4}(?:\1\d{1,7})?|3\d{3}([ -]?)\d{6}\2\d{4,5})"
    r"(?!\w|[.-]\d)"
)
_CARD_WORDS = re.compile(r"\b(?:card|visa|master ?card|amex|karte|carte|tarjeta|cartão)\b", re.I)
_NOT_CARD = re.compile(
    r"(?:\b(?:order|invoice|tracking|parcel|shipment|serial|imei|iccid|reference|ref|booking"
    r"|ticket|sku"
    r"|barcode|ean|account|customer|transaction|id|meter|voucher)|#)"
    r"(?:[\s:=(#.-]|\b(?:number|nr|no|id|code|is|was|of|the|my|your)\b)*$",
    re.IGNORECASE,
)
_IPV4 = re.compile(
    r"(?<![\w.-])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w-]|\.\d)"
)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_VERSION_WORDS = re.compile(
    r"\b(?:v|ver|version|versions|release|build|firmware|driver|update|updated|upgrade|upgraded"
    r"|software"
    r"|app|sdk|kernel|section|chapter|clause|figure|table|paragraph|rev|revision|patch|ios|android"
    r"|windows|chrome|python|package|library|bios|oid)\b[^.\n]{0,16}$",
    re.IGNORECASE,
)
_LOGIN = re.compile(
    r"(?:\b(?:root|admin|user|ubuntu|debian|ec2-user|deploy|pi)|\bs(?:sh|cp) \S+)@$"
)
_ADDRESS_WORDS = re.compile(
    r"\b(?:ip|ipv4|address|host|server|subnet|gateway|dns|ping|login)\b", re.I
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of a text, end exclusive, and its kind: a key of KINDS. note: which sub-kind."""

    start: int
    end: int
    kind: str
    note: str = ""


def find_personal(text: str, *, names: bool = True) -> list[Mark]:
    """Marks in order, none overlapping; the weightier kind wins a stretch that two claim."""
    # Most texts are ruled out by how many digits they hold, which is quickly counted.
    num_digits = sum(map(text.count, "0123456789"))
    found: list[Mark] = []
    if num_digits or "_" in text or "-" in text or "assw" in text.lower():
        found += [Mark(start, end, kind) for start, end, kind in find_secrets(text)]
    if "@" in text or " at " in text or "at)" in text or "at]" in text:
        found += [Mark(start, end, "email") for start, end in find_emails(text)]
    if num_digits >= 4 and ("." in text or ":" in text):
        found += [Mark(start, end, "ip") for start, end in find_ips(text)]
    if num_digits >= 6:
        found += [Mark(start, end, "national_id", n) for start, end, n in find_national_ids(text)]
        found += [Mark(start, end, "iban") for start, end in find_ibans(text)]
    if num_digits >= 7:
        found += [Mark(start, end, "phone") for start, end in find_phones(text)]
    if num_digits >= 12:
        found += [Mark(start, end, "card") for start, end in find_cards(text)]
    if names:
        found += [Mark(start, end, "name") for start, end in find_names(text)]
    return _without_overlaps(found)


def find_emails(text: str) -> list[tuple[int, int]]:
    """(start, end) of e-mail addresses, "name (at) example (dot) com" included."""
    found = []
    if "@" in text:
        for match in _EMAIL.finditer(text):
            local, _, domain = match.group().rpartition("@")
            ending = domain.rpartition(".")[2].lower()
            remote = local == "git" and text[match.end() : match.end() + 1] == ":"
            if ending not in _FILE_ENDINGS and not remote:
                found.append(match.span())
    found += [match.span() for match in _EMAIL_IN_WORDS.finditer(text)]
    return found


def find_ibans(text: str) -> list[tuple[int, int]]:
    """(start, end) of IBANs with right check digits, written with or without spaces."""
    found = []
    for match in _IBAN.finditer(text):
        wanted = IBAN_LENGTHS.get(match.group()[:2].upper(), 0)
        end, bare = match.start(), ""
        for char in match.group():
            end += 1
            bare += char if char.isalnum() else ""
            if len(bare) == wanted:
                break
        following = text[end : end + 1]
        if len(bare) == wanted and iban(bare) and not following.isalnum():
            found.append((match.start(), end))
    return found


def find_cards(text: str) -> list[tuple[int, int]]:
    """(start, end) of payment card numbers: an issuer's prefix and length, and Luhn's digit."""
    found = []
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        before = text[max(0, match.start() - 40) : match.start()]
        named = bool(_CARD_WORDS.search(before))
        # Twelve digits are a Maestro card, or most often something else.
        if is_card(digits) and (named or (len(digits) > 12 and not _NOT_CARD.search(before))):
            found.append(match.span())
    return found


def is_card(digits: str) -> bool:
    """True for a number that an issuer could have given out (ISO/IEC 7812 ranges, Luhn)."""
    size, two, three, four = len(digits), digits[:2], digits[:3], int(digits[:4])
    issued = (
        (digits[0] == "4" and size in (13, 16, 19))
        or (("51" <= two <= "55" or 2221 <= four <= 2720) and size == 16)
        or ((two in ("34", "37") or digits[:4] in ("1800", "2131")) and size == 15)
        or ((four == 6011 or two == "65" or "644" <= three <= "649") and size in (16, 19))
        or ((two in ("36", "38", "39") or "300" <= three <= "305") and size == 14)
        or (3528 <= four <= 3589 and size in (16, 19))
        or (two == "62" and 16 <= size <= 19)
        or (
            (two in ("50", "56", "57", "58") or four in (6304, 6759, 6761, 6762, 6763))
            and size >= 16
        )
    )
    return issued and len(set(digits)) > 1 and luhn(digits)


def find_ips(text: str) -> list[tuple[int, int]]:
    """(start, end) of IPv4 and IPv6 addresses of machines; versions and masks are none."""
    found = []
    for match in _IPV4.finditer(text):
        parts = [int(part) for part in match.group().split(".")]
        if parts[0] in (0, 127, 255) or (parts[0] > 239):
            continue
        before = text[max(0, match.start() - 24) : match.start()]
        if before.endswith("@") and not _LOGIN.search(before):  # package@1.2.3.4
            continue
        if _VERSION_WORDS.search(before) and not _ADDRESS_WORDS.search(before):
            continue
        found.append(match.span())
    if ":" in text:
        found += [m.span() for m in _IPV6.finditer(text) if _is_ipv6(m.group())]
    return found


def _is_ipv6(written: str) -> bool:
    groups = [group for group in written.split(":") if group]
    if len(groups) < 3 or not any(char.isdigit() for char in written):
        return False
    try:
        return not ipaddress.IPv6Address(written).is_loopback
    except ValueError:
        return False


def _without_overlaps(found: list[Mark]) -> list[Mark]:
    ranks = {kind: rank for rank, kind in enumerate(KINDS)}
    kept: list[Mark] = []
    for mark in sorted(found, key=lambda m: (ranks[m.kind], m.start - m.end, m.start)):
        if all(mark.end <= other.start or other.end <= mark.start for other in kept):
            kept.append(mark)
    return sorted(kept, key=lambda m: m.start)
