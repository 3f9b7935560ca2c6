"""1,000 planted items of each structured kind of personal data among hard negatives.

Items are made from the issuers' and countries' published rules by code of its own, and written the
way people write them; the recognisers' patterns play no part. Hard negatives are what resembles them:
order numbers, versions, dates, ISBNs, hashes, IMEIs, amounts, wrong check digits. An item counts as
found when marks of its kind cover it and nothing beyond its ends; every other mark is a false one.
"""

# ruff: noqa: E501
from __future__ import annotations

import base64
import hashlib
import random
import string
import uuid
from collections import Counter
from collections.abc import Callable

from record import Bar, at_least, record
from tunewright.data.audit.personal import STRUCTURED, find_personal

NUM_ITEMS = 1000
NUM_NEGATIVES = 6000
SEED = 20261124
Random = random.Random

NAMES = [
    "anna",
    "ben",
    "chloe",
    "dmitri",
    "elif",
    "farid",
    "grace",
    "hugo",
    "ines",
    "jonas",
    "kaya",
    "liam",
    "mei",
    "noah",
    "olga",
    "pablo",
    "rosa",
    "sven",
]
WORDS = [
    "blue",
    "river",
    "stone",
    "maple",
    "cloud",
    "field",
    "north",
    "amber",
    "harbor",
    "cedar",
    "sunny",
    "violet",
    "orbit",
    "quiet",
    "pine",
]
NEUTRAL = (
    "Hello, {} is the one on file, please check.",
    "it's {} if that helps",
    "{}",
    "Please remove {} from my profile. The rest can stay.",
    "We still have {} stored for this shop, is that right?",
    "I sent it twice ({}) and nobody answered.",
    "Good morning,\nplease note {}.\nThanks",
    "wrong: {} should be deleted asap!!",
    "can u confirm {}? thx",
)


def digits(r: Random, size: int) -> str:
    return "".join(r.choice(string.digits) for _ in range(size))


def some(r: Random, alphabet: str, size: int) -> str:
    return "".join(r.choice(alphabet) for _ in range(size))


# -- items ---------------------------------------------------------------------------------------


def email(r: Random) -> str:
    local = r.choice(
        (
            f"{r.choice(NAMES)}.{r.choice(WORDS)}",
            f"{r.choice(NAMES)}{r.randrange(100)}",
            f"{r.choice(NAMES)[0]}_{r.choice(WORDS)}",
            f"{r.choice(WORDS)}-{r.choice(WORDS)}+{r.choice(WORDS)}",
            r.choice(("info", "support", "billing", "kontakt")),
            f"{r.choice(NAMES)}.{r.choice(NAMES)}.{r.choice(WORDS)}",
        )
    )
    host = r.choice(
        (r.choice(WORDS), f"{r.choice(WORDS)}-{r.choice(WORDS)}", f"mail.{r.choice(WORDS)}")
    )
    ending = r.choice(
        [
            "com",
            "org",
            "net",
            "de",
            "co.uk",
            "io",
            "shop",
            "fr",
            "com.br",
            "museum",
            "info",
            "example.org",
        ]
    )
    written = f"{local}@{host}.{ending}"
    return written.upper() if r.random() < 0.03 else written


def luhn_digit(body: str) -> str:
    total = 0
    for index, char in enumerate(reversed(body)):
        value = int(char) * (2 if index % 2 == 0 else 1)
        total += value if value < 10 else value - 9
    return str(-total % 10)


def card(r: Random) -> str:
    prefix, size = r.choice(
        (("4", 16), ("4", 16), ("51", 16), ("53", 16), ("55", 16), ("2223", 16), ("2720", 16),
         ("34", 15), ("37", 15), ("6011", 16), ("65", 16), ("36", 14), ("3530", 16), ("3566", 16),
         ("62", 16))
    )  # fmt: skip
    body = prefix + digits(r, size - len(prefix) - 1)
    number = body + luhn_digit(body)
    gap = r.choice(("", "", " ", " ", "-"))
    cuts = (4, 10) if size in (14, 15) else (4, 8, 12)
    parts = [number[a:b] for a, b in zip((0, *cuts), (*cuts, size), strict=True)]
    return gap.join(parts)


def iban(r: Random) -> str:
    country, form = r.choice(
        (("DE", "n" * 18), ("GB", "aaaa" + "n" * 14), ("FR", "n" * 10 + "c" * 11 + "nn"),
         ("NL", "aaaa" + "n" * 10), ("ES", "n" * 20), ("IT", "a" + "n" * 10 + "c" * 12),
         ("AT", "n" * 16), ("CH", "n" * 5 + "c" * 12), ("PL", "n" * 24), ("BE", "n" * 12),
         ("IE", "aaaa" + "n" * 14), ("SE", "n" * 20), ("NO", "n" * 11), ("PT", "n" * 21))
    )  # fmt: skip
    pools = {
        "n": string.digits,
        "a": string.ascii_uppercase,
        "c": string.digits + string.ascii_uppercase,
    }
    body = "".join(r.choice(pools[kind]) for kind in form)
    moved = body + country + "00"
    number = "".join(str(int(char, 36)) for char in moved)
    whole = f"{country}{98 - int(number) % 97:02d}{body}"
    style = r.random()
    if style < 0.45:
        return whole
    if style < 0.95:
        return " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))
    return whole.lower()


def ip(r: Random) -> str:
    if r.random() < 0.7:
        return f"{r.choice([n for n in range(1, 224) if n != 127])}.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(1, 255)}"
    groups = [
        "2001" if r.random() < 0.5 else "2a02",
        *(f"{r.randrange(1, 65536):x}" for _ in range(7)),
    ]
    if r.random() < 0.5:
        return ":".join(groups)
    return ":".join(groups[:4]) + "::" + groups[7]


def phone(r: Random) -> str:
    area, exchange, line = r.randrange(201, 990), r.randrange(201, 999), digits(r, 4)
    n = lambda size: digits(r, size)  # noqa: E731
    first = lambda choices: r.choice(choices)  # noqa: E731
    return r.choice(
        (
            f"+1 {area}-{exchange}-{line}", f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}",
            f"{area}.{exchange}.{line}", f"1-800-{exchange}-{line}", f"+1{area}{exchange}{line}",
            f"({area}) {exchange}-{line} ext. {r.randrange(10, 999)}",
            f"+44 20 7{n(3)} {n(4)}", f"07{n(3)} {n(6)}", f"020 7{n(3)} {n(4)}", f"+44 7{n(3)} {n(6)}",
            f"(0{first('12')}{n(3)}) {n(6)}", f"+44 (0)161 {n(3)} {n(4)}",
            f"+49 30 {n(7)}", f"030 / {n(7)}", f"0{first(('151', '170', '176'))} {n(7)}", f"+49-89-{n(6)}",
            f"0{first(('221', '711'))}-{n(6)}", f"0049 40 {n(6)}",
            f"0{first('67')} {n(2)} {n(2)} {n(2)} {n(2)}", f"+33 {first('1679')} {n(2)} {n(2)} {n(2)} {n(2)}",
            f"01.{n(2)}.{n(2)}.{n(2)}.{n(2)}", f"+34 6{n(2)} {n(3)} {n(3)}", f"+39 3{n(2)} {n(7)}",
            f"06-{first('12345')}{n(7)}", f"+31 6 {n(8)}", f"+48 {first('567')}{n(2)} {n(3)} {n(3)}",
            f"+46 70-{n(3)} {n(2)} {n(2)}", f"+61 4{n(2)} {n(3)} {n(3)}", f"04{n(2)} {n(3)} {n(3)}",
            f"+91 {first('6789')}{n(4)} {n(5)}", f"+55 11 9{n(4)}-{n(4)}", f"(11) 9{n(4)}-{n(4)}",
            f"+81 90-{n(4)}-{n(4)}", f"090-{n(4)}-{n(4)}", f"+86 138 {n(4)} {n(4)}", f"+353 87 {n(3)} {n(4)}",
        )
    )  # fmt: skip


PHONE_LINES = (
    "You can call me on {} after five.",
    "Tel: {}",
    "my mobile is {}, text me",
    "Please ring {} before delivery",
    "new phone number {} from today",
    "reach me at {}",
    "{} is my number",
    "Best regards\nShop North\n{}",
    "WhatsApp {} works best.",
    "nobody picks up under {}!",
    "{}",
    "Telefon {} bitte anrufen",
    "I gave the driver {} and he never rang",
    "please use {} instead of the old one",
)


def national_id(r: Random) -> tuple[str, str]:
    """(written, a sentence with {})."""
    return r.choice(
        (_ssn, _nino, _dni, _cpf, _pesel, _personnummer, _bsn, _nir, _steuer, _hetu, _chinese)
    )(r)


def _ssn(r: Random) -> tuple[str, str]:
    area = r.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}-{r.randrange(1, 100):02d}-{r.randrange(1, 10000):04d}", r.choice(NEUTRAL)


def _nino(r: Random) -> tuple[str, str]:
    prefix = r.choice(["AB", "CE", "EH", "GJ", "JK", "LM", "PR", "SW", "TX", "YZ"])
    gap = r.choice(("", " "))
    pairs = [digits(r, 2) for _ in range(3)]
    return gap.join((prefix, *pairs, r.choice("ABCD"))), r.choice(NEUTRAL)


def _dni(r: Random) -> tuple[str, str]:
    number = r.randrange(10_000_000, 100_000_000)
    letter = "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]
    return f"{number}{r.choice(('', '-'))}{letter}", r.choice(NEUTRAL)


def _cpf(r: Random) -> tuple[str, str]:
    body = [r.randrange(10) for _ in range(9)]
    for size in (9, 10):
        rest = sum(value * (size + 1 - place) for place, value in enumerate(body)) % 11
        body.append(0 if rest < 2 else 11 - rest)
    text = "".join(map(str, body))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}", r.choice(NEUTRAL)


def _date6(r: Random) -> str:
    return f"{r.randrange(40, 100):02d}{r.randrange(1, 13):02d}{r.randrange(1, 29):02d}"


def _pesel(r: Random) -> tuple[str, str]:
    body = _date6(r) + digits(r, 4)
    total = sum(int(d) * w for d, w in zip(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=True))
    return body + str(-total % 10), r.choice(
        ("PESEL: {}", "mój PESEL to {}", "My PESEL number is {}.")
    )


def _personnummer(r: Random) -> tuple[str, str]:
    body = _date6(r) + digits(r, 3)
    whole = body + luhn_digit(body)
    return f"{r.choice(('', '19'))}{whole[:6]}-{whole[6:]}", r.choice(NEUTRAL)


def _bsn(r: Random) -> tuple[str, str]:
    while True:
        body = [r.randrange(1, 10), *(r.randrange(10) for _ in range(7))]
        last = sum(value * weight for value, weight in zip(body, range(9, 1, -1), strict=True)) % 11
        if last < 10:
            return "".join(map(str, body)) + str(last), r.choice(
                ("BSN {}", "mijn BSN is {}.", "burgerservicenummer: {}")
            )


def _nir(r: Random) -> tuple[str, str]:
    body = f"{r.choice('12')}{digits(r, 2)}{r.randrange(1, 13):02d}{r.randrange(1, 96):02d}{digits(r, 3)}{digits(r, 3)}"
    key = f"{97 - int(body) % 97:02d}"
    parts = (body[0], body[1:3], body[3:5], body[5:7], body[7:10], body[10:13], key)
    return r.choice(("", " ")).join(parts), r.choice(NEUTRAL)


def _steuer(r: Random) -> tuple[str, str]:
    twice, *others = r.sample(range(10), 9)
    body = [twice, twice, *others]
    r.shuffle(body)
    while body[0] == 0:
        r.shuffle(body)
    product = 10
    for value in body:
        step = (value + product) % 10
        product = 2 * (step or 10) % 11
    text = "".join(map(str, body)) + str((11 - product) % 10)
    shown = text if r.random() < 0.5 else f"{text[:2]} {text[2:5]} {text[5:8]} {text[8:]}"
    return shown, r.choice(
        ("Steuer-ID: {}", "meine IdNr. lautet {}", "Steueridentifikationsnummer {}")
    )


def _hetu(r: Random) -> tuple[str, str]:
    day = f"{r.randrange(1, 29):02d}{r.randrange(1, 13):02d}{r.randrange(30, 100):02d}"
    running = f"{r.randrange(2, 900):03d}"
    check = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(day + running) % 31]
    return f"{day}-{running}{check}", r.choice(NEUTRAL)


def _chinese(r: Random) -> tuple[str, str]:
    body = f"{r.choice(('110101', '310104', '440305'))}{r.randrange(1950, 2006)}{r.randrange(1, 13):02d}{r.randrange(1, 29):02d}{digits(r, 3)}"
    total = sum(int(d) * (2 ** (17 - place) % 11) for place, d in enumerate(body))
    return body + "10X98765432"[total % 11], r.choice(NEUTRAL)


ALNUM = string.ascii_letters + string.digits


def key(r: Random) -> str:
    hexes = lambda size: some(r, "0123456789abcdef", size)  # noqa: E731
    mixed = lambda size: some(r, ALNUM, size)  # noqa: E731
    jwt = ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=")
        for part in (
            b'{"alg":"HS256","typ":"JWT"}',
            f'{{"sub":"{digits(r, 10)}","iat":{digits(r, 10)}}}'.encode(),
            r.randbytes(32),
        )
    )
    return r.choice(
        (
            "AKIA" + some(r, string.ascii_uppercase + "234567", 16), "ghp_" + mixed(36), "gho_" + mixed(36),
            "github_pat_" + mixed(22) + "_" + mixed(59), "glpat-" + mixed(20),
            f"xoxb-{digits(r, 12)}-{digits(r, 12)}-{mixed(24)}", "sk_live_" + mixed(24), "sk_test_" + mixed(24),
            "rk_live_" + mixed(24), "sk-proj-" + mixed(48), "sk-" + mixed(48), "sk-ant-api03-" + mixed(80),
            "AIza" + some(r, ALNUM + "_-", 35), "hf_" + some(r, string.ascii_letters, 34),
            f"SG.{mixed(22)}.{mixed(43)}", "SK" + hexes(32), "npm_" + mixed(36), "dop_v1_" + hexes(64),
            "shpat_" + hexes(32), f"{digits(r, 10)}:AA{mixed(33)}", "dapi" + hexes(32), "key-" + hexes(32),
            f"{hexes(32)}-us{r.randrange(1, 22)}", jwt,
        )
    )  # fmt: skip


def private_key(r: Random) -> str:
    kind = r.choice(("RSA ", "EC ", "OPENSSH ", "", "ENCRYPTED "))
    body = base64.b64encode(r.randbytes(r.randrange(100, 800))).decode()
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


ITEMS: dict[str, Callable[[Random], str]] = {
    "email": email, "phone": phone, "iban": iban, "card": card, "ip": ip, "key": key,
    "private_key": private_key,
}  # fmt: skip


# -- hard negatives ------------------------------------------------------------------------------


def negative(r: Random) -> str:
    """A sentence that holds nothing personal and much that resembles it."""
    body = digits(r, 15)
    no = digits(r, r.randrange(5, 15))
    isbn = f"978{digits(r, 9)}"
    total = sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(isbn))
    isbn += str(-total % 10)
    wrong_luhn = "4" + digits(r, 14)
    wrong_luhn += str((int(luhn_digit(wrong_luhn)) + r.randrange(1, 9)) % 10)
    real = iban(r).replace(" ", "").upper()
    wrong_iban = real[:2] + f"{(int(real[2:4]) + r.randrange(1, 80)) % 97:02d}" + real[4:]
    date = f"{r.randrange(1, 29):02d}{(sep := r.choice('./-'))}{r.randrange(1, 13):02d}{sep}{r.randrange(2015, 2027)}"
    iso = f"{r.randrange(2015, 2027)}-{r.randrange(1, 13):02d}-{r.randrange(1, 29):02d}"
    clock = f"{r.randrange(24):02d}:{r.randrange(60):02d}:{r.randrange(60):02d}"
    version = ".".join(str(r.randrange(30)) for _ in range(r.choice((2, 3, 4))))
    sha = hashlib.sha1(no.encode(), usedforsecurity=False).hexdigest()
    return r.choice(
        (
            f"My order {no} has not arrived.", f"Order number: {digits(r, 3)}-{digits(r, 7)}-{digits(r, 7)}",
            f"invoice 2024-{digits(r, 6)} is wrong", f"Ticket #{digits(r, 8)} is still open",
            f"order no. {digits(r, 4)}-{digits(r, 4)}-{digits(r, 4)}, two boxes", f"ref {digits(r, 10)}",
            f"Tracking number {digits(r, 20)} shows nothing", f"tracking 1Z{some(r, ALNUM.upper(), 16)}",
            f"Parcel {digits(r, 12)} stuck since {date}", f"It happened on {date} at {clock}.",
            f"{iso} {clock} ERROR timeout after {digits(r, 5)} ms", f"from {date} to {date}",
            f"updated to version {version} yesterday", f"v{version} crashes, v{version} did not",
            f"app version {version}.{r.randrange(9)} on Android {r.randrange(8, 16)}",
            f"The book is ISBN {isbn}.", f"ISBN {isbn[:3]}-{isbn[3]}-{isbn[4:8]}-{isbn[8:12]}-{isbn[12]}",
            f"barcode {isbn} does not scan", f"commit {sha} broke it", f"md5 {sha[:32]}",
            f"id {uuid.UUID(int=r.getrandbits(128))}", f"sha256: {hashlib.sha256(no.encode()).hexdigest()}",
            f"I paid {r.randrange(1, 999)}.{digits(r, 2)} EUR, not {r.randrange(1, 9)}.{digits(r, 3)}.{digits(r, 3)},00",
            f"We sold 1,{digits(r, 3)},{digits(r, 3)} units and {digits(r, 3)} {digits(r, 3)} were returned",
            f"the amount of {digits(r, 2)} {digits(r, 3)} {digits(r, 3)} is too much",
            f"IMEI {body[:14]}{luhn_digit(body[:14])}", f"serial number {digits(r, 4)} {digits(r, 4)} {digits(r, 4)} {digits(r, 4)}",
            f"customer no {digits(r, 9)}", f"Account {digits(r, 8)}, sort code {digits(r, 2)}-{digits(r, 2)}-{digits(r, 2)}",
            f"the number {wrong_luhn} was refused by the form", f"it says {wrong_iban} is not valid",
            f"photo at {r.randrange(90)}.{digits(r, 6)}, {r.randrange(180)}.{digits(r, 6)}",
            f"see logo@{r.choice('23')}x.png in the folder", f"ask @{r.choice(NAMES)}{r.randrange(99)} on the forum",
            f"npm install {r.choice(WORDS)}@{version}", "the @app.route decorator fails", "git clone git@github.com:team/app.git",
            f"std::vector<int> a::b at line {digits(r, 3)}", f"it takes {r.randrange(1, 60)}:{digits(r, 2)} minutes, ratio 3:2:1",
            f"error 0x{sha[:8]} in module {sha[8:16]}", f"the password for the {r.choice(WORDS)} page does not work",
            "I forgot my password: how do I reset it?", f"class sk-{r.choice(WORDS)}-{r.choice(WORDS)} in the style sheet",
            f"licence key {'-'.join(some(r, string.ascii_uppercase + string.digits, 5) for _ in range(5))}",
            f"score {r.randrange(30)}-{r.randrange(30)}, {r.randrange(30)}-{r.randrange(30)}", f"pages {r.randrange(100, 400)}-{r.randrange(400, 900)}",
            f"part no {digits(r, 3)}-{digits(r, 4)}", f"SKU {digits(r, 3)}.{digits(r, 3)}.{digits(r, 4)}", f"room {digits(r, 3)}, floor {r.randrange(9)}",
            f"mask 255.255.255.{r.choice((0, 128, 192))} on localhost 127.0.0.1:{digits(r, 4)}",
            f"size {r.randrange(10, 99)} x {r.randrange(10, 99)} x {r.randrange(10, 99)} cm, {digits(r, 4)} g",
            f"model {some(r, string.ascii_uppercase, 2)}{digits(r, 6)}", f"timestamp {1_700_000_000 + r.randrange(10**7)}",
            f"booking reference {some(r, string.ascii_uppercase + string.digits, 6)}", f"flight {some(r, string.ascii_uppercase, 2)}{digits(r, 4)} at {clock[:5]}",
            f"the years {r.randrange(1900, 2000)}-{r.randrange(2000, 2027)} were good", f"{iso}T{clock}Z", f"chapter {version}",
            f"pH 7.4, {digits(r, 3)} mg, {r.randrange(100)} %", f"doi 10.{digits(r, 4)}/{digits(r, 6)}", f"transaction {digits(r, 16)}",
        )
    )  # fmt: skip


# -- measuring -----------------------------------------------------------------------------------


def main() -> None:
    r = Random(SEED)
    hits: Counter[str] = Counter()
    false: Counter[str] = Counter()
    missed: list[tuple[str, str]] = []
    wrong: list[tuple[str, str, str]] = []
    cases: list[tuple[str | None, str, str]] = []
    for kind in (*ITEMS, "national_id"):
        for _ in range(NUM_ITEMS):
            if kind == "national_id":
                item, line = national_id(r)
            else:
                item, line = ITEMS[kind](r), r.choice(PHONE_LINES if kind == "phone" else NEUTRAL)
            cases.append((kind, item, line.format(item)))
    cases += [(None, "", negative(r)) for _ in range(NUM_NEGATIVES)]
    for kind, item, text in cases:
        begin = text.index(item) if kind else -1
        end = begin + len(item)
        for mark in find_personal(text, names=False):
            if mark.kind == kind and begin <= mark.start and mark.end <= end:
                if mark.end - mark.start >= 0.8 * len(item):
                    hits[mark.kind] += 1
                    item = "" if item else item
                continue
            false[mark.kind] += 1
            wrong.append((mark.kind, text[mark.start : mark.end], text))
        if kind and item:
            missed.append((kind, text))
    bars: list[Bar] = []
    for kind in (*ITEMS, "national_id"):
        found = hits[kind]
        bars.append(at_least(f"{kind}: recall of {NUM_ITEMS:,} planted", found / NUM_ITEMS, 0.99))
        bars.append(at_least(f"{kind}: precision", found / max(1, found + false[kind]), 0.98))
    assert set(STRUCTURED) >= set(ITEMS)
    record(
        "personal_data",
        bars,
        "2 shared cores of an AMD EPYC with AVX512-BF16",
        extra={
            "negatives": NUM_NEGATIVES,
            "false": dict(false),
            "missed": missed[:20],
            "wrong": wrong[:20],
        },
    )
    if __debug__ and (missed or wrong):
        for kind, text in missed[:40]:
            print("missed", kind, repr(text)[:120])
        for kind, value, text in wrong[:40]:
            print("false", kind, repr(value), repr(text)[:120])


if __name__ == "__main__":
    main()
