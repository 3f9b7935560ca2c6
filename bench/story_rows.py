"""Rows for the stories of docs/tutorials: from public data where they lie, or made, in small.

Each maker writes the files that its recipe names below `rows/`. Real rows come from the folder of
public data (see README.md); `small` rows are made on the spot, with rules that can be learned.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
NEW_CAMPAIGN = re.compile(r"ringtone|\btones?\b|polyph|\bchat|dating|flirt|sexy", re.I)
SEED = 17


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def write_traffic(folder: Path, name: str, before: Sequence[Row], after: Sequence[Row]) -> None:
    """A log without labels for `watch`, and the same with labels for `retune`."""
    log = [
        {"id": f"{name}-{n}", "time_s": 60.0 * n, "input": row["text"], "client": f"c{n % 40}"}
        for n, row in enumerate([*before, *after])
    ]
    write_jsonl(folder / f"{name}-traffic.jsonl", log)
    labelled = [
        {**line, "label": row["label"]} for line, row in zip(log, [*before, *after], strict=True)
    ]
    write_jsonl(folder / f"{name}-labelled.jsonl", labelled[len(before) :])


def mixed(rng: random.Random, *parts: Sequence[Row]) -> list[Row]:
    rows = [row for part in parts for row in part]
    rng.shuffle(rows)
    return rows


# Fraud: short messages


def read_sms(data: Path) -> tuple[list[Row], list[Row]]:
    """(ham, spam), each text once after normalising, in an order of our own."""
    kinds: dict[str, list[Row]] = {"ham": [], "spam": []}
    seen = set()
    text = (data / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8")
    for line in text.splitlines():
        label, _, message = line.partition("\t")
        plain = re.sub(r"\W+", " ", message.lower()).strip()
        if label in kinds and plain not in seen:
            seen.add(plain)
            kinds[label].append({"text": message, "label": label})
    rng = random.Random(SEED)
    for rows in kinds.values():
        rng.shuffle(rows)
    return kinds["ham"], kinds["spam"]


def make_sms(count: int, share: float) -> tuple[list[Row], list[Row]]:
    """Made messages: friends arrange to meet, spammers promise prizes; some sell tones."""
    rng = random.Random(SEED)
    people, places = ("Ann", "Bo", "mum", "the boss"), ("at home", "in town", "after work", "later")
    ham = [
        {"text": f"{rng.choice(people)} will see you {rng.choice(places)} around {n % 24}:{n % 60}"
                 f" for the {rng.choice(('film', 'lunch', 'game', 'talk'))}", "label": "ham"}
        for n in range(count)
    ]  # fmt: skip
    spam: list[Row] = []
    for n in range(int(count * share)):
        text = rng.choice(("WINNER! claim your prize of {n} pounds, call 090{n} now",
                           "Urgent! your account won a {n} voucher, reply YES to 8{n}",
                           "Get polyphonic ringtones, text TONE to 8{n}, only {n}p"))  # fmt: skip
        spam.append({"text": text.format(n=1000 + n), "label": "spam"})
    return ham, spam


def fraud(folder: Path, data: Path, *, small: bool) -> None:
    """Training at 1 in 100; validation and test with the rare cases gathered; a new campaign."""
    ham, spam = make_sms(1300, 0.4) if small else read_sms(data)
    known = [row for row in spam if not NEW_CAMPAIGN.search(row["text"])]
    new = [row for row in spam if NEW_CAMPAIGN.search(row["text"])]
    rng = random.Random(SEED)
    sizes = {"train": 400, "validation": 320, "test": 300} if small else {
        "train": 2200, "validation": 600, "test": 1000
    }  # fmt: skip
    gathered = {"train": sizes["train"] // 100, "validation": 60, "test": 60 if small else 300}
    for name, size in sizes.items():
        common, ham = ham[:size], ham[size:]
        rare, known = known[: gathered[name]], known[gathered[name] :]
        write_csv(folder / f"fraud-{name}.csv", mixed(rng, common, rare))
    half = len(ham) // 2
    before = mixed(rng, ham[:half], known[: half // 100])
    after = mixed(rng, ham[half:], new[: len(ham) // 5])
    write_traffic(folder, "fraud", before, after)


# Fraud: payments with numbers beside the text; the rules are planted, the words of test are new


PRESSING = {
    "seen": ("urgent please", "right now or the account is closed", "keep this between us",
             "the manager needs it at once"),
    "unseen": ("hurry, no time to explain", "before midnight or all is lost", "tell nobody of it",
               "our director insists, immediately"),
}  # fmt: skip
GOODS = {
    "seen": ("gift cards", "prepaid vouchers", "bitcoin wallet top-up", "wire to a new broker"),
    "unseen": ("store credit codes", "crypto deposit", "shopping coupons", "payment to an agent"),
}  # fmt: skip
PLAIN = {
    "seen": ("rent for march", "groceries", "dinner with friends", "electricity bill", "a gift"),
    "unseen": ("monthly lease", "supermarket", "pizza evening", "power company", "a present"),
}  # fmt: skip
COUNTRIES = ("AT", "DE", "FR", "NL", "PL", "SE")


def payment(rng: random.Random, *, fraud: bool, words: str) -> Row:
    """Fraud asks for what cannot be called back, under pressure, from a young account, for much.

    Honest payments have every one of these traits too, only never all at once.
    """
    traits = [True] * 4 if fraud else [rng.random() < 0.3 for _ in range(4)]
    if not fraud and all(traits):
        traits[rng.randrange(4)] = False
    pressing, odd, young, much = traits
    memo = rng.choice(GOODS[words] if odd else PLAIN[words])
    memo = f"{memo}, {rng.choice(PRESSING[words])}" if pressing else f"{memo}, thank you"
    return {
        "memo": f"{memo} ref {rng.randrange(10_000)}",
        "amount": round(rng.uniform(900, 4000) if much else rng.lognormvariate(4, 0.8), 2),
        "account_days": rng.randrange(1, 40) if young else rng.randrange(60, 4000),
        "payments_today": rng.randrange(1, 6),
        "country": rng.choice(COUNTRIES),
        "verdict": "fraud" if fraud else "honest",
    }


def fraud_columns(folder: Path, data: Path, *, small: bool) -> None:
    """Training at 1 in 100 in one wording; validation and test half in another one."""
    rng = random.Random(SEED)
    sizes = {"train": 300, "validation": 150, "test": 200} if small else {
        "train": 4000, "validation": 800, "test": 2000
    }  # fmt: skip
    for name, size in sizes.items():
        rare = size // 100 if name == "train" else size // 8
        rows = [
            payment(rng, fraud=n < rare,
                    words="unseen" if name == "test" and n % 2 else "seen")
            for n in range(size + rare)
        ]  # fmt: skip
        write_csv(folder / f"payments-{name}.csv", mixed(rng, rows))


# Customer service


INTENTS = {
    "card_lost": ("i lost my card", "my card is gone", "somebody stole the card"),
    "refund": ("i want my money back", "please refund the order", "when is the refund coming"),
    "delivery": ("where is my parcel", "the parcel is late", "track the delivery"),
    "password": ("i forgot the password", "cannot log in", "reset my login"),
    "opening": ("when do you open", "are you open on sunday", "opening hours please"),
}
STRANGE = ("weather", "recipe for soup", "sing a song", "who won the match")


def routing(folder: Path, data: Path, *, small: bool) -> None:
    """banking77 without ten of its intents, which stand for what nobody thought of."""
    if small:
        rows = [
            {"text": f"{text}, {extra} {n}", "label": label}
            for label, texts in INTENTS.items()
            for text in texts
            for n in range(14)
            for extra in ("please", "hello", "thanks")
        ]
        random.Random(SEED).shuffle(rows)
        cut = len(rows) // 4
        test, train = rows[:cut], rows[cut:]
        strange = [{"text": f"{text} {n}", "label": "other"} for text in STRANGE for n in range(20)]
    else:
        read = {}
        for name in ("train", "test"):
            with open(data / "banking77" / f"{name}.csv", encoding="utf-8", newline="") as file:
                read[name] = [
                    {"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)
                ]
        labels = sorted({row["label"] for row in read["train"]})
        left_out = set(random.Random(SEED).sample(labels, 10))
        train = [row for row in read["train"] if row["label"] not in left_out]
        test = [row for row in read["test"] if row["label"] not in left_out]
        strange = [row for row in read["test"] if row["label"] in left_out]
    write_csv(folder / "routing-train.csv", train)
    write_csv(folder / "routing-test.csv", test)
    write_csv(folder / "routing-unknown.csv", strange)
    half = len(test) // 2
    rng = random.Random(SEED)
    write_traffic(folder, "routing", test[:half], mixed(rng, test[half:], strange))


def slots_of(example: Mapping[str, Any]) -> dict[str, str]:
    text = example["userInput"]["text"]
    found = {}
    for label in example.get("labels") or ():
        span = label["valueSpan"]
        found[label["slot"]] = text[span.get("startIndex", 0) : span["endIndex"]]
    return dict(sorted(found.items()))


def asked_of(example: Mapping[str, Any]) -> str:
    """The request, and which slot the assistant had asked for, since "five" alone says nothing."""
    wanted = (example.get("context") or {}).get("requestedSlots") or ()
    text = str(example["userInput"]["text"])
    return f"[{', '.join(wanted)}] {text}" if wanted else text


def assistant(folder: Path, data: Path, *, small: bool) -> None:
    """restaurant8k as JSON slots; equal requests stand on one side."""
    if small:
        rows = [
            {"prompt": f"a table for {people} at {time} pm",
             "completion": json.dumps({"people": str(people), "time": f"{time} pm"})}
            for people in range(2, 22) for time in range(1, 13)
        ]  # fmt: skip
        random.Random(SEED).shuffle(rows)  # each once: a row of test in training is left out
        parts = {"train": rows[:160], "validation": rows[160:200], "test": rows[200:]}
    else:
        read = {
            name: [
                {"prompt": asked_of(example),
                 "completion": json.dumps(slots_of(example), ensure_ascii=False)}
                for example in json.loads((data / "restaurant8k" / file).read_text("utf-8"))
            ]
            for name, file in (("train", "train_0.json"), ("test", "test.json"))
        }  # fmt: skip
        random.Random(SEED).shuffle(read["train"])
        parts = {
            "train": read["train"][400:], "validation": read["train"][:400], "test": read["test"]
        }  # fmt: skip
    for name, rows in parts.items():
        write_jsonl(folder / f"slots-{name}.jsonl", rows)


# Code


def regex(folder: Path, data: Path, *, small: bool) -> None:
    """NL-RX-Turk: English to regular expressions, spaces between tokens taken out."""
    if small:
        rows = [
            {"prompt": f"lines with {word} at the {place}", "completion": form.format(word)}
            for word in (f"{start}{end}" for start in ("do", "ca", "ri", "la", "tre", "boo")
                         for end in ("g", "t", "ng", "ke", "e"))
            for place, form in (("start", "^{}.*"), ("end", ".*{}$"), ("middle", ".*{}.*"))
        ]  # fmt: skip
        random.Random(SEED).shuffle(rows)
        parts = {"train": rows[:64], "validation": rows[64:80], "test": rows[80:]}
    else:
        pairs = data / "nl_regex" / "data_turk_eval_turk"
        parts = {
            name: [
                {"prompt": a, "completion": b.replace(" ", "")}
                for a, b in zip(
                    (pairs / f"src-{part}.txt").read_text().splitlines(),
                    (pairs / f"targ-{part}.txt").read_text().splitlines(),
                    strict=True,
                )
            ]
            for name, part in (("train", "train"), ("validation", "val"), ("test", "test"))
        }
    for name, rows in parts.items():
        write_jsonl(folder / f"regex-{name}.jsonl", rows)


def bash(folder: Path, data: Path, *, small: bool) -> None:
    """nl2bash: English to commands. Nothing here is ever run."""
    if small:
        rows = [
            {"prompt": f"find files named {word}{n} and print them",
             "completion": f"find . -name {word}{n} -print"}
            for word in ("a", "log", "tmp") for n in range(30)
        ]  # fmt: skip
    else:
        asked = (data / "nl2bash" / "all.nl").read_text("utf-8").splitlines()
        told = (data / "nl2bash" / "all.cm").read_text("utf-8").splitlines()
        rows = [
            {"prompt": a.strip(), "completion": b.strip()}
            for a, b in zip(asked, told, strict=True)
            if a.strip() and b.strip() and len(a) < 300 and len(b) < 200
        ]
    write_jsonl(folder / "bash.jsonl", rows)


def make_byte_model(folder: Path, *, small: bool) -> None:
    """A Llama shape over bytes with random weights, so that nothing has to be fetched.

    It knows no English: what it can do afterwards it learned from the rows. Any causal base of the
    hub takes its place by one word in the recipe.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    torch.manual_seed(0)
    width, layers = (32, 1) if small else (192, 4)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(names), hidden_size=width, intermediate_size=width * 8 // 3,
        num_hidden_layers=layers, num_attention_heads=width // 32,
        num_key_value_heads=width // 32, max_position_embeddings=1024,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
